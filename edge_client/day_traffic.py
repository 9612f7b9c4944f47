"""What a device sent and received today, and how much of a day's allowance one round may take. No I/O.

A day is the calendar's, here. What is left of it is shared evenly among the rounds that are to be expected until
midnight, by the time that lay between the last ones; a round that needs less leaves more for the others.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime

DECAY = 0.7
SECONDS_A_DAY = 86_400.0
UNKNOWN_DAY = ""
"""The day of a clock that was never set."""


@dataclass(frozen=True)
class DayTraffic:
    """`bytes` of `day` (ISO date); the last round began at `round_at` (Unix time), rounds are `interval` s apart."""

    day: str = UNKNOWN_DAY
    bytes: int = 0
    round_at: float | None = None
    interval: float | None = None

    def with_bytes(self, count: int, moment: datetime | None) -> DayTraffic:
        """After `count` bytes went over the link."""
        today = self.on(moment)
        return replace(today, bytes=today.bytes + count)

    def with_round(self, moment: datetime | None) -> DayTraffic:
        """After a round began; clocks that jump back or stand still tell nothing of intervals."""
        if moment is None:
            return replace(self, round_at=None)
        now, before = moment.timestamp(), self.round_at
        interval = self.interval
        if before is not None and 0 < now - before < SECONDS_A_DAY:
            found = now - before
            interval = found if interval is None else DECAY * interval + (1 - DECAY) * found
        return replace(self.on(moment), round_at=now, interval=interval)

    def on(self, moment: datetime | None) -> DayTraffic:
        """The account of the day of `moment`: a new day begins at nothing."""
        day = UNKNOWN_DAY if moment is None else moment.date().isoformat()
        return self if day == self.day else replace(self, day=day, bytes=0)

    def left(self, most: float, moment: datetime | None) -> float:
        """Bytes of a day's `most` that are left."""
        return max(0.0, most - self.on(moment).bytes)

    def share(self, most: float, moment: datetime | None, interval: float) -> float:
        """Bytes that one round may take; `interval` seconds between rounds are assumed where none were seen."""
        midnight = SECONDS_A_DAY
        if moment is not None:
            midnight -= moment.hour * 3600 + moment.minute * 60 + moment.second
        rounds = max(1.0, midnight / max(1.0, self.interval or interval))
        return self.left(most, moment) / rounds
