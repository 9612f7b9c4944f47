"""What a private run has cost so far, round by round, for a device that took part in all of them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from server.config import RunConfig
from server.privacy.run_words import DELTA, run_words, schedule_of_run
from server.privacy.schedule import Schedule
from wire_protocol.privacy import RecordPrivacy

_MOST_POINTS = 24


@dataclass(frozen=True)
class SpentPoint:
    """After so many closed rounds, a device's own ledger says this epsilon."""

    rounds: int
    epsilon: float


@dataclass(frozen=True)
class Spending:
    """`protects` what one record or one device has, None where the run is not private; then there is no `spent`.

    `planned` is epsilon after all rounds, at `delta`; `spent` are at most 24 points up to the rounds closed so far.
    """

    words: str
    protects: Literal["record", "device"] | None = None
    delta: float = DELTA
    planned: float | None = None
    spent: tuple[SpentPoint, ...] = ()


def spending(config: RunConfig, closed: int) -> Spending:
    """What a run by this configuration has cost after `closed` rounds; the first call takes a second or two."""
    privacy = config.privacy
    if privacy is None:
        return Spending(run_words(config))
    schedule, noise = schedule_of_run(config, privacy), privacy.noise_multiplier
    spent = tuple(SpentPoint(rounds, _epsilon(schedule, noise, rounds)) for rounds in _points(closed))
    protects: Literal["record", "device"] = "record" if isinstance(privacy, RecordPrivacy) else "device"
    return Spending(run_words(config), protects, DELTA, _epsilon(schedule, noise, config.rounds), spent)


def _points(closed: int) -> tuple[int, ...]:
    """Evenly spread numbers of rounds up to `closed`, on a grid that stays as rounds are added, and `closed` itself."""
    step = 1
    while closed // step >= _MOST_POINTS:
        step *= 2
    return tuple(sorted({*range(step, closed + 1, step), *((closed,) if closed else ())}))


@lru_cache(maxsize=4096)
def _epsilon(schedule: Schedule, noise_multiplier: float, rounds: int) -> float:
    from server.privacy.calibration import ledger_epsilon  # noqa: PLC0415 - dp-accounting takes a second to load

    return ledger_epsilon(schedule.releases(noise_multiplier, rounds), DELTA)
