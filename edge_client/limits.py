"""What a device's owner allows: the table `[limits]` of `device.toml`, read strictly.

With the table, even an empty one, the device fits each round to what it can afford; without it the plan's `keep` alone
decides.

    [limits]
    seconds_per_round = 60      # choosing and training, by the clock on the wall
    bytes_per_day = 5_000_000   # sent and received, models too; the day is the device's own
    memory_mb = 200             # resident memory of the device's process, 10^6 bytes
    slow_temperature = 60       # degrees Celsius, of the hottest sensor; from here on training has less of the time
    max_temperature = 70        # above it training rests, and rounds are sat out
    pause_on_battery = true     # the same on battery,
    pause_on_metered = true     # on a link that is paid for by the byte, as NetworkManager knows it,
    hours = "22:00-06:00"       # and outside these hours, local time

A training that must rest goes on when it may, if its round's deadline allows. A limit whose sensor says nothing counts
as reached: what cannot be judged is not risked. No I/O.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from math import inf
from typing import Literal

from edge_client.owner_table import Reader, flag, number, read_table
from wire_protocol.errors import require

HOTTEST = 150.0
_AMOUNTS = "a finite number above 0"
_TEMPERATURES = f"a number above 0 and at most {HOTTEST:g} degrees Celsius"
_SLOW_TEMPERATURES = "a number above 0 and below max_temperature, which is set with it"
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
    slow_temperature: float | None = None
    pause_on_metered: bool = False

    def __post_init__(self) -> None:
        for name in ("seconds_per_round", "bytes_per_day", "memory_mb"):
            require(getattr(self, name) > 0, f"limits.{name}", getattr(self, name), "above 0")
        hottest = self.max_temperature
        legal = hottest is None or 0 < hottest <= HOTTEST
        require(legal, "limits.max_temperature", hottest, _TEMPERATURES)
        slow = self.slow_temperature
        legal = slow is None or (hottest is not None and 0 < slow < hottest)
        require(legal, "limits.slow_temperature", slow, _SLOW_TEMPERATURES)


@dataclass(frozen=True)
class Readings:
    """What a machine's sensors say; None where one says nothing. `moment` is local time."""

    temperature: float | None
    on_battery: bool | None
    moment: datetime | None
    metered: bool | None = None


@dataclass(frozen=True)
class Pause:
    """The limit that says that a device must rest: `words` as long as it does, `detail` at this moment."""

    of: Literal["temperature", "battery", "link", "hours"]
    words: str
    detail: str = ""

    def __str__(self) -> str:
        return self.detail or self.words


def read_limits(table: object) -> Limits:
    """The table of the file; raises `InvalidValueError` that names key, value and what is legal."""
    return Limits(**read_table("limits", table, _READERS))


def pause_reason(limits: Limits, readings: Readings, cool_by: float = 0.0) -> Pause | None:
    """Why training must rest now, None when it need not; the temperature must be `cool_by` degrees below its limit."""
    return (
        _too_hot(limits, readings.temperature, cool_by)
        or _on_battery(limits, readings.on_battery)
        or _on_metered_link(limits, readings.metered)
        or _outside_hours(limits, readings.moment)
    )


def _too_hot(limits: Limits, temperature: float | None, cool_by: float) -> Pause | None:
    hottest = limits.max_temperature
    if hottest is None:
        return None
    if temperature is None:
        return Pause("temperature", "the temperature cannot be read, and max_temperature is set")
    if temperature <= hottest - cool_by:
        return None
    until = f", after a rest {hottest - cool_by:g}" if cool_by else ""
    detail = f"the temperature is {temperature:.0f} degrees, max_temperature allows {hottest:g}{until}"
    return Pause("temperature", "the device is too hot", detail)


def _on_battery(limits: Limits, on_battery: bool | None) -> Pause | None:
    if not limits.pause_on_battery or on_battery is False:
        return None
    return Pause(
        "battery", "the device runs on battery" if on_battery else "it cannot be seen whether mains power is on"
    )


def _on_metered_link(limits: Limits, metered: bool | None) -> Pause | None:
    if not limits.pause_on_metered or metered is False:
        return None
    return Pause("link", "the link is metered" if metered else "it cannot be seen whether the link is metered")


def _outside_hours(limits: Limits, moment: datetime | None) -> Pause | None:
    hours = limits.hours
    if hours is None:
        return None
    if moment is None:
        return Pause("hours", "the clock was never set, and hours is set")
    if moment.hour * 60 + moment.minute in hours:
        return None
    return Pause("hours", f"hours allows {hours}", f"it is {moment:%H:%M}, hours allows {hours}")


def _count(name: str, value: object) -> float:
    require(isinstance(value, int) and not isinstance(value, bool), name, value, "a whole number of bytes above 0")
    return number(name, value, _AMOUNTS)


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
    "seconds_per_round": partial(number, legal=_AMOUNTS),
    "bytes_per_day": _count,
    "memory_mb": partial(number, legal=_AMOUNTS),
    "slow_temperature": partial(number, legal=_SLOW_TEMPERATURES),
    "max_temperature": partial(number, legal=_TEMPERATURES),
    "pause_on_battery": flag,
    "pause_on_metered": flag,
    "hours": _hours,
}
