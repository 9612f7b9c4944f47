"""How fast a device may train now, by its owner's limits and what its sensors say. No I/O.

Heat is controlled as in Astrom and Murray, Feedback Systems (2008), section 1.5. From `slow_temperature` on training
has a share of the time in proportion to what is left until `max_temperature`, but `LEAST_DUTY` (proportional control,
saturated); above it training rests until the machine is `COOL_BY` degrees cooler than that (on and off, with
hysteresis), so that it does not go on and rest by turns. Every other limit holds or does not.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_client.limits import Limits, Pause, Readings, pause_reason

LEAST_DUTY = 0.1
COOL_BY = 5.0
"""Degrees Celsius."""


@dataclass(frozen=True)
class Pace:
    """`duty` is the share of time that training may take, in [`LEAST_DUTY`, 1]; `pause` is why it may take none."""

    duty: float = 1.0
    pause: Pause | None = None

    def rest_seconds(self, step_seconds: float) -> float:
        """How long to rest after a step that took so long."""
        return step_seconds * (1 / self.duty - 1)


def next_pace(before: Pace, limits: Limits, readings: Readings) -> Pace:
    """The pace after new readings."""
    hot = before.pause is not None and before.pause.of == "temperature"
    pause = pause_reason(limits, readings, cool_by=COOL_BY if hot else 0.0)
    return Pace(_duty(limits, readings.temperature), pause)


def _duty(limits: Limits, temperature: float | None) -> float:
    slow, most = limits.slow_temperature, limits.max_temperature
    if slow is None or most is None or temperature is None:
        return 1.0
    return min(1.0, max(LEAST_DUTY, (most - temperature) / (most - slow)))
