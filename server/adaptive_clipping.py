"""The clip norm follows a quantile of what it clips, by counts that devices noise themselves.

Andrew, Thakkar, McMahan and Ramaswamy, 2021, "Differentially private learning with adaptive clipping", equation 2:

    C = C exp(-rate (b - quantile))

b is the mean, weighted by examples, of the shares that the round's own updates tell are within C (`Update.within`). A
share is clipped to what noise may make of it, so that one device that lies moves b little, and b - quantile to [-1, 1]:
to both sides alike, as else noise would push the norm to one. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import exp, isfinite

from server.aggregation.fold import CountedUpdates
from server.screening import Screened
from wire_protocol.errors import require
from wire_protocol.messages import RoundPlan
from wire_protocol.privacy import LARGEST_CLIP_NORM, SMALLEST_CLIP_NORM

CLIP_RATE = 0.2
"""What the paper found good for all of its tasks."""
_DEVIATIONS = 8.0
"""Of noise, beyond which a share is made up."""


@dataclass(frozen=True)
class ClipQuantile:
    """Which share is to be within the clip norm, above 0 and below 1, and how fast the norm moves there, above 0."""

    quantile: float
    rate: float = CLIP_RATE

    def __post_init__(self) -> None:
        require(0 < self.quantile < 1, "clip_quantile", self.quantile, "above 0 and below 1")
        require(isfinite(self.rate) and self.rate > 0, "clip_rate", self.rate, "above 0 and finite")

    def next_norm(self, clip_norm: float, share: float) -> float:
        """The norm after one of which a `share` was within."""
        excess = min(1.0, max(-1.0, share - self.quantile))
        return min(LARGEST_CLIP_NORM, max(SMALLEST_CLIP_NORM, clip_norm * exp(-self.rate * excess)))


class Heard:
    """Updates, and what those of them that are of the round `plan` told of its clip norm when last iterated over."""

    def __init__(self, updates: CountedUpdates, plan: RoundPlan) -> None:
        self._updates, self._plan = updates, plan
        self._sum, self._weight = 0.0, 0

    def __len__(self) -> int:
        return len(self._updates)

    def __iter__(self) -> Iterator[Screened]:
        self._sum, self._weight = 0.0, 0
        for screened in self._updates:
            update = screened.update
            if update.within is not None and update.round == self._plan.round:
                self._sum += update.examples * self._plausible(update.within)
                self._weight += update.examples
            yield screened

    def clip_norm(self, quantile: ClipQuantile) -> float:
        """The next round's: the same where nothing was told."""
        privacy = self._plan.privacy
        assert privacy is not None
        if not self._weight:
            return privacy.clip_norm
        return quantile.next_norm(privacy.clip_norm, self._sum / self._weight)

    def _plausible(self, share: float) -> float:
        assert self._plan.privacy is not None
        most = 1.0 + _DEVIATIONS * self._plan.privacy.count_noise_multiplier / 2
        return min(most, max(-most, share))
