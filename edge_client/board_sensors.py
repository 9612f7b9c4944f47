"""What Linux tells of a board beside what psutil reads: whether it is slowed down, and whether its link is metered.

Nothing here needs a device file or a privilege, so that the hardened service has it too: the Raspberry Pi's firmware
is asked through its kernel's /sys, not through /dev/vcio as `vcgencmd` does.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

_T = TypeVar("_T")

SYS = Path("/sys")
FIRMWARE = ("devices/platform/soc*/soc*firmware/get_throttled", "devices/platform/*firmware/get_throttled")
THROTTLED_NOW = 0b1111
"""Under-voltage, frequency capped, throttled, soft temperature limit; the bits above say that it happened since boot.
https://www.raspberrypi.com/documentation/computers/os.html#get_throttled
"""
_UNDER_VOLTAGE = "class/hwmon/hwmon*/in0_lcrit_alarm"
"""Linux, Documentation/hwmon/raspberrypi-hwmon.rst: what kernels other than the Raspberry Pi's own tell."""
_COOLING = "class/thermal/cooling_device*"
"""Linux, Documentation/driver-api/thermal/sysfs-api.rst: above 0 a processor, or a Jetson's GPU, is slowed down."""
_SLOWED = ("thermal-cpufreq", "cpufreq", "devfreq", "thermal-devfreq")

METERED_COMMAND = (
    "busctl", "--system", "get-property", "org.freedesktop.NetworkManager", "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager", "Metered",
)  # fmt: skip
_METERED = {"u 1": True, "u 2": False, "u 3": True, "u 4": False}
"""NMMetered: yes, no, and the same guessed; 0 is unknown.
https://networkmanager.dev/docs/api/latest/nm-dbus-types.html#NMMetered
"""
_COMMAND_SECONDS = 5.0


def throttled(sys: Path = SYS) -> bool | None:
    """Whether the board runs slower than it could, for heat or weak power; None where nothing tells."""
    told = [one for one in (*_firmware(sys), *_under_voltage(sys), *_cooling(sys)) if one is not None]
    return any(told) if told else None


def on_metered_link(command: Sequence[str] = METERED_COMMAND) -> bool | None:
    """Whether NetworkManager takes the link for one that is paid for by the byte; None where it does not know."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_SECONDS, check=False)
    except (OSError, subprocess.SubprocessError):
        return None
    return _METERED.get(done.stdout.strip())


def _firmware(sys: Path) -> Iterable[bool | None]:
    return (
        _read(path, lambda text: bool(int(text, 16) & THROTTLED_NOW)) for name in FIRMWARE for path in sys.glob(name)
    )


def _under_voltage(sys: Path) -> Iterable[bool | None]:
    alarms = (path for path in sys.glob(_UNDER_VOLTAGE) if _read(path.with_name("name"), str) == "rpi_volt")
    return (_read(path, lambda text: text != "0") for path in alarms)


def _cooling(sys: Path) -> Iterable[bool | None]:
    kinds = ((path, _read(path / "type", str)) for path in sys.glob(_COOLING))
    slowed = (path for path, kind in kinds if kind is not None and kind.startswith(_SLOWED))
    return (_read(path / "cur_state", lambda text: int(text) > 0) for path in slowed)


def _read(path: Path, meaning: Callable[[str], _T]) -> _T | None:
    with suppress(OSError, ValueError):
        return meaning(path.read_text().strip())
    return None
