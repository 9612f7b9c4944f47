"""What a device says of itself. No I/O."""

from __future__ import annotations

from math import inf

from wire_protocol.errors import require
from wire_protocol.messages import Message, require_count

MAX_RELEASE = 64
MAX_PAUSED = 200
"""Characters."""
COLDEST, HOTTEST = -100.0, 200.0
"""Degrees Celsius that a machine can be at."""


class DeviceState(Message, frozen=True, tag="state"):
    """What a device says of itself, retained: when it connects, again when it changes; and its last will.

    `release` is the signed release that it runs, "" where it was installed otherwise. `temperature` is its hottest
    sensor's, in degrees Celsius, `throttled` that the machine runs slower than it could, for heat or weak power;
    `paused` says why it sits out now, "" where it does not. `budget_left` is the epsilon that its owner's cap leaves,
    `free_mb` the room on its disk in 10^6 bytes. None: unknown, or its owner's affair.
    """

    online: bool
    examples: int = 0
    runtime: str = ""
    client: str = ""
    release: str = ""
    temperature: float | None = None
    throttled: bool = False
    paused: str = ""
    budget_left: float | None = None
    free_mb: int | None = None

    def __post_init__(self) -> None:
        require_count("examples", self.examples)
        require(len(self.release) <= MAX_RELEASE, "release", self.release, f"at most {MAX_RELEASE} characters")
        degrees, left = self.temperature, self.budget_left
        legal = degrees is None or COLDEST <= degrees <= HOTTEST
        require(legal, "temperature", degrees, f"{COLDEST:g} to {HOTTEST:g} degrees Celsius")
        require(len(self.paused) <= MAX_PAUSED, "paused", self.paused, f"at most {MAX_PAUSED} characters")
        require(left is None or 0 <= left < inf, "budget_left", left, "at least 0 and finite")
        if self.free_mb is not None:
            require_count("free_mb", self.free_mb)
