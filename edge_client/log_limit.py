"""So many lines and no more: what anyone can make a device log must not fill its disk."""

from __future__ import annotations

import logging

SECONDS_AN_HOUR = 3600.0
FAILURES_AN_HOUR = 12
"""For what may go wrong for weeks, and is tried again each minute."""


class LogLimit:
    """Lets `burst` lines through in every `seconds` of the caller's clock and counts the rest."""

    def __init__(self, logger: logging.Logger, level: int, *, burst: int = 5, seconds: float = 60.0) -> None:
        self._logger = logger
        self._level = level
        self._burst = burst
        self._seconds = seconds
        self._began = float("-inf")
        self._count = 0

    def log(self, now: float, text: str, *arguments: object) -> None:
        """Log a line unless there were enough; the first one of a new period says how many were left out."""
        if now - self._began >= self._seconds:
            if self._count > self._burst:
                self._logger.log(self._level, "%d more such lines were left out", self._count - self._burst)
            self._began, self._count = now, 0
        self._count += 1
        if self._count <= self._burst:
            self._logger.log(self._level, text, *arguments)
