"""How often something may be done for each name: `burst` at once, `rate` a second in the long run, sans-I/O.

Source: the virtual scheduling form of the generic cell rate algorithm, ITU-T I.371 (one number for each name).
"""

from __future__ import annotations

from collections.abc import Callable

from wire_protocol.errors import require

_MANY = 4096
"""Names beyond which those that used nothing lately are forgotten."""


class Allowance:
    """`clock` gives seconds and never goes back."""

    def __init__(self, rate: float, burst: int, clock: Callable[[], float]) -> None:
        require(rate > 0, "rate", rate, "above 0")
        require(burst >= 1, "burst", burst, "at least 1")
        self._step = 1 / rate
        self._ahead = (burst - 1) / rate
        self._clock = clock
        self._due: dict[str, float] = {}

    def take(self, name: str, cost: int = 1) -> bool:
        """Whether it may be done for `name` now; if so, it counts as done `cost` times, once beyond `burst` too."""
        now = self._clock()
        due = max(now, self._due.get(name, now))
        if due - now > self._ahead:
            return False
        if len(self._due) >= _MANY:
            self._due = {other: at for other, at in self._due.items() if at > now}
        self._due[name] = due + self._step * cost
        return True
