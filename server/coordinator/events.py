"""What the round state machine is told: facts, orders, and the time. Frozen values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DeviceOnline:
    """The device said that it is there."""

    device: str


@dataclass(frozen=True)
class DeviceOffline:
    """The device said goodbye, or the broker did in its name."""

    device: str


@dataclass(frozen=True)
class UpdateCounted:
    """The device's update of this round is durably counted; of an earlier round, it is late."""

    device: str
    round: int


@dataclass(frozen=True)
class UpdateRefused:
    """The device's update of this round was refused for good, or it said that it has none: it is not waited for."""

    device: str
    round: int


@dataclass(frozen=True)
class RoundApplied:
    """The closed round's new model version is durable."""

    round: int


@dataclass(frozen=True)
class Pause:
    """Open no further round."""


@dataclass(frozen=True)
class Resume:
    """Open rounds again."""


@dataclass(frozen=True)
class Stop:
    """End the run, whatever is open; for good."""


@dataclass(frozen=True)
class ResyncNow:
    """Make the next round one in which neurons are chosen."""


@dataclass(frozen=True)
class Tick:
    """The time, in seconds of a clock that never jumps, and whether it is this run's turn to have a round open."""

    now: float
    turn: bool = True


Event = (
    DeviceOnline
    | DeviceOffline
    | UpdateCounted
    | UpdateRefused
    | RoundApplied
    | Pause
    | Resume
    | Stop
    | ResyncNow
    | Tick
)
