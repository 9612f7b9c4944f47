"""What the machine says of itself: whether its clock can be believed, and how hot it is."""

from __future__ import annotations

import ctypes
import sys
import time
from datetime import datetime

from edge_client.board_sensors import throttled
from edge_client.findings import Finding
from edge_client.machine_sensors import hottest
from edge_client.plan_clock import EARLIEST

HOT = 80.0
"""Degrees Celsius at which Raspberry Pis slow down (Raspberry Pi documentation, "Frequency management")."""
_TIMEX_BYTES = 208
_TIME_ERROR = 5
"""adjtimex(2): the clock is not synchronised."""
_SYNCHRONISE = "have systemd-timesyncd or chrony run: timedatectl set-ntp true"


def examine_clock() -> list[Finding]:
    """Whether it was ever set, and whether something keeps it right."""
    now = time.time()
    shown = f"{datetime.fromtimestamp(now).astimezone():%Y-%m-%d %H:%M:%S %Z}"
    if now < EARLIEST:
        text = f"the clock says {shown}: it was never set, so TLS refuses certificates and hours count as over"
        return [Finding("clock", "bad", text, _SYNCHRONISE)]
    kept = is_synchronised()
    if kept is None:
        return [Finding("clock", "unknown", f"the clock says {shown}; whether anything keeps it right is not known")]
    if not kept:
        return [Finding("clock", "weak", f"the clock says {shown}, and nothing keeps it right", _SYNCHRONISE)]
    return [Finding("clock", "good", f"the clock says {shown} and is synchronised")]


def is_synchronised() -> bool | None:
    """What the kernel knows of its clock, None where it does not say."""
    if sys.platform != "linux":
        return None
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
    return None if state < 0 else bool(state != _TIME_ERROR)


def examine_temperature() -> list[Finding]:
    """The hottest sensor, and whether the board is slowed down."""
    degrees, slow = hottest(), throttled()
    shown = (
        "no sensor tells of the temperature" if degrees is None else f"the hottest sensor is at {degrees:.0f} degrees"
    )
    if slow:
        text = f"the board is slowed down, for heat or weak power; {shown}"
        return [Finding("temperature", "weak", text, "cool it; give it the power supply made for it")]
    if degrees is not None and degrees >= HOT:
        return [Finding("temperature", "weak", shown, "cool it, or set max_temperature in [limits]")]
    return [Finding("temperature", "unknown" if degrees is None else "good", shown)]
