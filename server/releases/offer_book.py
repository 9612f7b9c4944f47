"""What each device is to be offered now, and what of it has to be said: no I/O, belongs to one thread.

An offer ends after `OFFER_SECONDS` and is made anew when half of that has passed, so that who holds back newer ones
cannot hold out an old one for longer. It is retained; it is said again to a device that reports without knowing of it,
as brokers forget what they retained.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from server.releases.rollout import Said

OFFER_SECONDS = 14 * 86_400.0


@dataclass(frozen=True)
class Wanted:
    """The version that a device is to run, and the attempt of its offer."""

    version: str
    attempt: int


@dataclass(frozen=True)
class Posting:
    """What to publish for a device: an offer that ends at `expires`, or (None) that there is none."""

    device: str
    wanted: Wanted | None
    expires: float


class OfferBook:
    """What was said to whom."""

    def __init__(self) -> None:
        self._said: dict[str, Posting] = {}

    def forget(self) -> None:
        """Nothing is known of what the broker retains."""
        self._said.clear()

    def due(self, wanted: Mapping[str, Wanted | None], now: float) -> list[Posting]:
        """What has to be said so that each device is offered what it is to be; it counts as said."""
        postings = []
        for device, what in wanted.items():
            before = self._said.get(device)
            stale = before is not None and before.wanted is not None and before.expires - now < OFFER_SECONDS / 2
            if before is None or before.wanted != what or stale:
                self._said[device] = Posting(device, what, now + OFFER_SECONDS)
                postings.append(self._said[device])
        return postings

    def again(self, reports: Mapping[str, Said]) -> list[Posting]:
        """What to say again to devices that reported and do not know of it."""
        known: Iterable[Posting] = (self._said[device] for device in reports if device in self._said)
        return [
            posting
            for posting in known
            if posting.wanted is not None and posting.wanted != _of(reports[posting.device])
        ]


def _of(said: Said) -> Wanted:
    return Wanted(said.version, said.attempt)
