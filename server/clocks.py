"""Two clocks: what the wall says, for plans and records that others read, and one that never jumps, for waiting."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Clocks:
    """`wall` gives seconds since the Unix epoch and may jump; `steady` seconds since some moment, never going back."""

    wall: Callable[[], float] = time.time
    steady: Callable[[], float] = time.monotonic

    def wall_at(self, steady: float) -> float:
        """What the wall will say at a moment of the steady clock, unless it jumps until then."""
        return self.wall() + steady - self.steady()

    def steady_at(self, wall: float) -> float:
        """The moment of the steady clock at which the wall will say so, unless it jumps until then."""
        return self.steady() + wall - self.wall()


SYSTEM_CLOCKS = Clocks()
