"""What a device says of how it is, and when it says so again. No I/O.

Its owner may withhold some of it: see `allowed_report`.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_client.allowed_report import Report
from wire_protocol.device_state import COLDEST, HOTTEST, DeviceState

NEWS_DEGREES = 5.0
NEWS_SHARE_OF_DISK = 0.1
NEWS_MB = 100


@dataclass(frozen=True)
class Health:
    """How a device is: units as in `DeviceState`; `throttled` None where nothing tells, `runtime` "" where unknown."""

    temperature: float | None = None
    throttled: bool | None = None
    paused: str = ""
    budget_left: float | None = None
    free_mb: int | None = None
    runtime: str = ""


def told(birth: DeviceState, health: Health, allowed: Report) -> DeviceState:
    """`birth` with how the device is, as far as it may be told; a sensor that says what cannot be says nothing."""
    degrees = health.temperature
    legal = allowed.temperature and degrees is not None and COLDEST <= degrees <= HOTTEST
    return DeviceState(
        online=birth.online,
        examples=birth.examples,
        runtime=health.runtime or birth.runtime,
        client=birth.client,
        release=birth.release,
        temperature=round(degrees, 1) if legal and degrees is not None else None,
        throttled=bool(health.throttled),
        paused=health.paused,
        budget_left=health.budget_left if allowed.budget_left else None,
        free_mb=health.free_mb,
    )


def is_news(said: DeviceState, now: DeviceState) -> bool:
    """Whether what the device would say now differs enough from what it said to be said before its time."""
    moved = _moved(said.temperature, now.temperature, NEWS_DEGREES)
    disk = _moved(said.free_mb, now.free_mb, max(NEWS_MB, NEWS_SHARE_OF_DISK * (said.free_mb or 0)))
    rest = ("online", "throttled", "paused", "budget_left", "release")
    return moved or disk or any(getattr(said, name) != getattr(now, name) for name in rest)


def _moved(before: float | None, after: float | None, least: float) -> bool:
    if before is None or after is None:
        return before is not after
    return abs(after - before) >= least
