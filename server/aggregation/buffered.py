"""Buffered asynchronous aggregation, FedBuff (Nguyen, Malik, Zhan, Yousefpour, Rabbat, Malek and Huba 2022, "Federated
Learning with Buffered Asynchronous Aggregation", algorithm 1): when a version is due, and how much late updates count.

Devices train whenever they can, from whatever version they have. Updates are kept until there are `goal`; then they are
aggregated and the version rises by one. A round is the time in which the updates for one version gather, so devices
that finish after their own round have their update counted in the one that is open then. One trained from version
t - s that is aggregated into version t + 1 is s versions stale, and counts discount(s) times its difference (section 3,
"staleness scaling")::

    discount(s) = 1 / (1 + s)^a,        a = 1/2 in the paper

The discount is a contribution's `scale` and not its weight: as in the paper the divisor does not shrink with it, so a
buffer of stale updates moves the model less, instead of as far as a buffer of fresh ones.

What waits is not in memory: updates are in the spool and their rows in the database, as those of any round, and are
folded in the order of (round trained in, device), not of arrival. All updates that wait when the goal is reached are
aggregated together, so there may be more than `goal`.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

from wire_protocol.errors import require

MOST_STALE = 4
EXPONENT = 0.5


@dataclass(frozen=True)
class BufferRule:
    """A version is due at `goal` updates (at least 1); one more than `most_stale` versions old is refused.

    `exponent` is a, at least 0; 0 counts stale updates as fresh ones.
    """

    goal: int
    most_stale: int = MOST_STALE
    exponent: float = EXPONENT

    def __post_init__(self) -> None:
        require(self.goal >= 1, "buffer_goal", self.goal, "at least 1")
        require(self.most_stale >= 0, "most_stale", self.most_stale, "at least 0")
        legal = self.exponent >= 0 and isfinite(self.exponent)
        require(legal, "staleness_exponent", self.exponent, "at least 0 and finite")

    def discount(self, staleness: int) -> float:
        """How much of its difference an update counts, in (0, 1]."""
        return float((1 + staleness) ** -self.exponent)
