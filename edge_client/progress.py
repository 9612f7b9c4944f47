"""Whether the work of a device goes on: a training that hangs in a library or a driver cannot be seen from outside."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STUCK_SECONDS = 900.0
"""Between two steps. No device takes part in rounds whose steps take as long."""


class Progress:
    """When work last moved, None while there is none; any thread may say and ask."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._moved: float | None = None

    @contextmanager
    def working(self) -> Iterator[None]:
        """Work goes on while the body runs."""
        self.moved()
        try:
            yield
        finally:
            self._moved = None

    def moved(self) -> None:
        """Work has come a step further, or waits on purpose."""
        self._moved = self._clock()

    @property
    def stuck(self) -> bool:
        """Whether work is at hand that did not move for `STUCK_SECONDS`."""
        moved = self._moved
        return moved is not None and self._clock() - moved > STUCK_SECONDS
