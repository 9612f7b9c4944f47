"""What a device's owner allows: the table `[limits]` of `device.toml`, read strictly.

With the table, even an empty one, the device fits each round to what it can afford; without it the plan's `keep` alone
decides.

    [limits]
    seconds_per_round = 60      # choosing and training, by the clock on the wall
    bytes_per_day = 5_000_000   # sent and received, models too; the day is the device's own
    memory_mb = 200             # resident memory of the device's process, 10^6 bytes
    max_temperature = 70        # degrees Celsius, of the hottest sensor; above it rounds are sat out
    pause_on_battery = true     # on battery rounds are sat out
    hours = "22:00-06:00"       # rounds begin only in these hours, local time

A limit whose sensor says nothing counts as reached: what cannot be judged is not risked. No I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from math import inf

from edge_client.owner_table import Reader, flag, number, read_table
from wire_protocol.errors import require

HOTTEST = 150.0
_HOURS = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Hours:
    """Minutes of the day from `start` up to, not including, `end`; past midnight where `end` is the smaller one."""

    start: int
    end: int

    def __contains__(self, minute: int) -> bool:
        if self.start < self.end:
            return self.start <= minute < self.end
        return minute >= self.start or minute < self.end

    def __str__(self) -> str:
        return "-".join(f"{minute // 60:02}:{minute % 60:02}" for minute in (self.start, self.end))


@dataclass(frozen=True)
class Limits:
    """Units as in the file; what is infinite or None is not limited."""

    seconds_per_round: float = inf
    bytes_per_day: float = inf
    memory_mb: float = inf
    max_temperature: float | None = None
    pause_on_battery: bool = False
    hours: Hours | None = None

    def __post_init__(self) -> None:
        for name in ("seconds_per_round", "bytes_per_day", "memory_mb"):
            require(getattr(self, name) > 0, f"limits.{name}", getattr(self, name), "above 0")
        hottest = self.max_temperature
        legal = hottest is None or 0 < hottest <= HOTTEST
        require(legal, "limits.max_temperature", hottest, f"above 0 and at most {HOTTEST:g} degrees Celsius")


@dataclass(frozen=True)
class Readings:
    """What a machine's sensors say; None where one says nothing. `moment` is local time."""

    temperature: float | None
    on_battery: bool | None
    moment: datetime | None


def read_limits(table: object) -> Limits:
    """The table of the file; raises `InvalidValueError` that names key, value and what is legal."""
    return Limits(**read_table("limits", table, _READERS))


def pause_reason(limits: Limits, readings: Readings) -> str | None:
    """Why a round must not begin now, None when it may."""
    hottest = limits.max_temperature
    if hottest is not None and readings.temperature is None:
        return "the temperature cannot be read, and max_temperature is set"
    if hottest is not None and readings.temperature is not None and readings.temperature > hottest:
        return f"the temperature is {readings.temperature:.0f} degrees, max_temperature allows {hottest:g}"
    if limits.pause_on_battery and readings.on_battery is not False:
        return "the device runs on battery" if readings.on_battery else "it cannot be seen whether mains power is on"
    if limits.hours is not None and readings.moment is None:
        return "the clock was never set, and hours is set"
    if limits.hours is not None and readings.moment is not None:
        now = readings.moment.hour * 60 + readings.moment.minute
        return None if now in limits.hours else f"it is {readings.moment:%H:%M}, hours allows {limits.hours}"
    return None


def _count(name: str, value: object) -> float:
    require(isinstance(value, int) and not isinstance(value, bool), name, value, "a whole number of bytes")
    return number(name, value)


def _hours(name: str, value: object) -> Hours:
    legal = 'two different times of day, as "22:00-06:00"'
    found = _HOURS.fullmatch(value) if isinstance(value, str) else None
    require(found is not None, name, value, legal)
    assert found is not None
    start_hour, start_minute, end_hour, end_minute = map(int, found.groups())
    hours = Hours(start_hour * 60 + start_minute, end_hour * 60 + end_minute)
    require(hours.start != hours.end, name, value, legal)
    return hours


_READERS: dict[str, Reader] = {
    "seconds_per_round": number,
    "bytes_per_day": _count,
    "memory_mb": number,
    "max_temperature": number,
    "pause_on_battery": flag,
    "hours": _hours,
}
