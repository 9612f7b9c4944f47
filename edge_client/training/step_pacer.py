"""Stands between the steps of a training or scoring: ends it, lets the machine rest, or slows it down.

A thread cannot be ended or held from outside; between two batches it asks.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf
from threading import Event

from edge_client.errors import PausedError, StoppedError
from edge_client.machine_watch import LOOK_SECONDS
from edge_client.pace import Pace
from wire_protocol.examples import Examples

logger = logging.getLogger(__name__)

FULL_SPEED = Pace()


@dataclass(frozen=True)
class StepPacer:
    """Asks `pace` before each step and tells `moved` of it.

    Once `stop` is set, or where a rest would last until there is no time for the steps that are left, no step begins.
    `left_seconds` are those until the round's deadline.
    """

    stop: Event
    pace: Callable[[], Pace] = lambda: FULL_SPEED
    left_seconds: Callable[[], float] = lambda: inf
    moved: Callable[[], None] = lambda: None
    clock: Callable[[], float] = time.monotonic

    def working_seconds_left(self) -> float:
        """Seconds until the deadline that may be worked in, at the pace now."""
        return self.left_seconds() * self.pace().duty

    def unhurried(self) -> StepPacer:
        """For what is measured: it is only ended."""
        return StepPacer(self.stop, moved=self.moved, clock=self.clock)

    def paced(self, batches: Iterable[Examples], steps: int = 0) -> Iterator[Examples]:
        """The batches, of which `steps` are to come at least, each when its step may begin.

        Raises `StoppedError`, or `PausedError` with the owner's limit.
        """
        took = longest = 0.0
        for done, batch in enumerate(batches):
            self._rest(self.pace().rest_seconds(took))
            self._wait_for_leave((steps - done) * longest)
            began = self.clock()
            yield batch
            took = self.clock() - began
            longest = max(longest, took)

    def _rest(self, seconds: float) -> None:
        until = self.clock() + min(seconds, max(0.0, self.left_seconds()))
        while (rest := until - self.clock()) > 0 and not self.stop.wait(min(rest, LOOK_SECONDS)):
            self.moved()

    def _wait_for_leave(self, needed: float) -> None:
        waits = False
        while True:
            self.moved()
            if self.stop.is_set():
                raise StoppedError("the training was stopped")
            pause = self.pace().pause
            if pause is None:
                break
            if self.left_seconds() <= needed:
                raise PausedError(f"{pause}, and the round's deadline leaves no time to wait")
            if not waits:
                logger.info("training rests: %s", pause)
            waits = True
            self.stop.wait(LOOK_SECONDS)
        if waits:
            logger.info("training goes on")
