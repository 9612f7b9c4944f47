"""What this machine shows of itself: temperature, power, time of day, peak memory, and what it is.

Temperature and power are read by psutil; `board_sensors` has what it does not know. Every sensor can be
replaced by another function.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType

from edge_client.board_sensors import on_metered_link, throttled
from edge_client.errors import ConfigError
from edge_client.limits import Limits, Readings
from edge_client.plan_clock import was_set

_STATUS, _CLEAR, _PROCESSORS = Path("/proc/self/status"), Path("/proc/self/clear_refs"), Path("/proc/cpuinfo")
_RESET_PEAK = "5"
"""Linux, proc(5): writing it to clear_refs sets VmHWM to the memory resident now."""
_MODEL_KEYS = ("model name", "Model", "Hardware", "CPU part")


def _psutil() -> ModuleType | None:
    try:
        import psutil  # noqa: PLC0415 - a few devices need it
    except ImportError:
        return None
    return psutil  # type: ignore[no-any-return, unused-ignore]


def hottest() -> float | None:
    """Degrees Celsius of the hottest sensor, None where there is none."""
    read = getattr(_psutil(), "sensors_temperatures", None)
    if read is None:
        return None
    return max((float(one.current) for ones in read().values() for one in ones), default=None)


def on_battery() -> bool | None:
    """Whether the machine draws from a battery: False where it has none, None where it cannot be known."""
    read = getattr(_psutil(), "sensors_battery", None)
    if read is None:
        return None
    battery = read()
    if battery is None:
        return False
    return None if battery.power_plugged is None else not battery.power_plugged


def local_time() -> datetime | None:
    """The time of day here, None where the clock was never set."""
    now = time.time()
    return datetime.fromtimestamp(now).astimezone() if was_set(now) else None


def peak_memory_mb() -> float:
    """The most memory resident in this process since the last call, where Linux allows; else since its start."""
    with suppress(OSError):
        lines = _STATUS.read_text().splitlines()
        peak = int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024 / 1e6
        with suppress(OSError):
            _CLEAR.write_text(_RESET_PEAK)
        return peak
    import resource  # noqa: PLC0415 - only where /proc is not

    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def machine_name() -> str:
    """What a calibration depends on: system, processor and how many there are."""
    models: set[str] = set()
    with suppress(OSError):
        rows = (line.partition(":") for line in _PROCESSORS.read_text(errors="replace").splitlines())
        models = {value.strip() for key, _, value in rows if key.strip() in _MODEL_KEYS}
    return " ".join([platform.system(), platform.machine(), f"{os.cpu_count()}x", *sorted(models)])


@dataclass(frozen=True)
class Sensors:
    """How a device looks at its machine."""

    temperature: Callable[[], float | None] = hottest
    on_battery: Callable[[], bool | None] = on_battery
    metered: Callable[[], bool | None] = on_metered_link
    throttled: Callable[[], bool | None] = throttled
    local_time: Callable[[], datetime | None] = local_time
    peak_memory_mb: Callable[[], float] = peak_memory_mb
    seconds: Callable[[], float] = time.monotonic
    machine: Callable[[], str] = machine_name

    def readings(self, limits: Limits) -> Readings:
        """What these limits need to be judged; the rest is not looked at."""
        return Readings(
            temperature=self.temperature() if limits.max_temperature is not None else None,
            on_battery=self.on_battery() if limits.pause_on_battery else None,
            moment=self.local_time(),
            metered=self.metered() if limits.pause_on_metered else None,
        )


def require_sensors(limits: Limits, sensors: Sensors) -> None:
    """Raise `ConfigError` where a limit is set that this machine has no sensor for."""
    readings = sensors.readings(limits)
    psutil = "install the package psutil, or, where it is installed, take the limit out"
    for name, wanted, reading, advice in (
        ("max_temperature", limits.max_temperature is not None, readings.temperature, psutil),
        ("pause_on_battery", limits.pause_on_battery, readings.on_battery, psutil),
        (
            "pause_on_metered",
            limits.pause_on_metered,
            readings.metered,
            "it wants NetworkManager; or take the limit out",
        ),
    ):
        if wanted and reading is None:
            raise ConfigError(f"limits.{name} is set, but nothing on this machine tells of it: {advice}")
