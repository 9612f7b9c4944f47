"""When to say again what may have been lost: brokers drop messages that they have acknowledged."""

from __future__ import annotations

from wire_protocol.backoff import longest_wait

FIRST_SECONDS = 5.0
LONGEST_SECONDS = 60.0


class Reminder:
    """Due some seconds after `said`, then after twice as long each time, up to a minute. Knows no clock."""

    def __init__(self) -> None:
        self._repeats = 0
        self._due = float("inf")

    def said(self, now: float) -> None:
        """It was said for the first time, or said differently."""
        self._repeats = 0
        self._due = now + FIRST_SECONDS

    def is_due(self, now: float) -> bool:
        """Whether to say it again now; once for each time."""
        if now < self._due:
            return False
        self._repeats += 1
        self._due = now + longest_wait(self._repeats, base=FIRST_SECONDS, ceiling=LONGEST_SECONDS)
        return True
