"""What became of virtual devices in their rounds, and what it cost them, summed by kind of device. No I/O."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from typing import Literal

from devices.emulation.virtual_device import Answer
from devices.profiles.profile import Profile

Fate = Literal["heard", "download", "work", "upload", "offline", "declined", "refused"]
"""Heard; or, when the round closed: still fetching, still choosing or training, still sending; gone away meanwhile; it
said that it gives no update; the server refused its update.
"""
FATES: tuple[Fate, ...] = ("heard", "download", "work", "upload", "offline", "declined", "refused")
LATE: frozenset[Fate] = frozenset({"download", "work", "upload"})


@dataclass(frozen=True)
class Turn:
    """One device in one round, which for it ended at `ended`, `seconds` after it began; `kept` is the part of the
    model's parameters that it trains, 0 where that was never decided. Joules are an estimate.
    """

    device: int
    fate: Fate
    seconds: float
    kept: float
    bytes_up: int
    bytes_down: int
    joules: float


@dataclass(frozen=True)
class Course:
    """A device's answer on its way: when it began, its rate up in bytes a second, and when it is heard (in seconds from
    the start), infinite where it never is.
    """

    answer: Answer
    began: float
    rate_up: float
    heard: float


def turn_of(course: Course, fate: Fate, ended: float, kept: float, profile: Profile) -> Turn:
    """The account of a device whose part in a round ended at this moment.

    Joules: busy watts while it chooses and trains, idle watts while it fetches and sends.
    """
    answer = course.answer
    fetching = max(0.0, min(ended, answer.fetched) - course.began)
    working = max(0.0, min(ended, answer.ready) - answer.fetched)
    sending = max(0.0, ended - answer.ready)
    whole = answer.fetched - course.began
    return Turn(
        device=answer.device,
        fate=fate,
        seconds=ended - course.began,
        kept=kept,
        bytes_up=min(answer.bytes_up, int(sending * course.rate_up)) if ended < course.heard else answer.bytes_up,
        bytes_down=round(answer.bytes_down * min(1.0, fetching / whole)) if whole > 0 else answer.bytes_down,
        joules=profile.power.busy_watts * working + profile.power.idle_watts * (fetching + sending),
    )


def lateness(course: Course, now: float) -> Fate:
    """What a device is still at."""
    if now < course.answer.fetched:
        return "download"
    return "work" if now < course.answer.ready else "upload"


@dataclass
class KindAccount:
    """Sums over the turns of one kind of device: `fates` counts turns, the others add up; of `heard_*` those heard."""

    fates: dict[Fate, int] = field(default_factory=lambda: dict.fromkeys(FATES, 0))
    bytes_up: int = 0
    bytes_down: int = 0
    joules: float = 0.0
    heard_kept: float = 0.0
    heard_seconds: float = 0.0
    least_kept: float = inf

    @property
    def turns(self) -> int:
        """Turns in all."""
        return sum(self.fates.values())

    def add(self, turn: Turn) -> None:
        """Add a turn."""
        self.fates[turn.fate] += 1
        self.bytes_up += turn.bytes_up
        self.bytes_down += turn.bytes_down
        self.joules += turn.joules
        if turn.fate == "heard":
            self.heard_kept += turn.kept
            self.heard_seconds += turn.seconds
            self.least_kept = min(self.least_kept, turn.kept)
