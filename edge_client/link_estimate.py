"""How fast this device's uplink is: bytes over the time until their receipt, smoothed. No I/O.

Both sums decay by the same factor at each receipt, so that large updates count for more than small ones, in which the
way there and back is most of the time. What waited at the server counts too: it is part of being heard.
"""

from __future__ import annotations

from dataclasses import dataclass

DECAY = 0.7
ASSUMED_BYTES_PER_SECOND = 31_250.0
"""250 kbit/s, the slowest link we build for: what is planned with until a receipt says better."""
SHORTEST_SECONDS = 1e-3


@dataclass(frozen=True)
class LinkEstimate:
    """Decayed sums over receipts."""

    bytes: float = 0.0
    seconds: float = 0.0

    @property
    def bytes_per_second(self) -> float:
        """Of the uplink, by what was seen; `ASSUMED_BYTES_PER_SECOND` before anything was."""
        return self.bytes / self.seconds if self.seconds > 0 else ASSUMED_BYTES_PER_SECOND

    @property
    def measured(self) -> bool:
        """Whether a receipt was seen."""
        return self.seconds > 0

    def with_receipt(self, size: int, seconds: float) -> LinkEstimate:
        """The estimate after `size` bytes had their receipt `seconds` after the first of them was sent."""
        return LinkEstimate(DECAY * self.bytes + size, DECAY * self.seconds + max(seconds, SHORTEST_SECONDS))
