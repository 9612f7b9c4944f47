"""A privacy plan: the noise for a promise, and how epsilon grows by round with it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count

from server.privacy.calibration import Target, ledger_epsilon, noise_multiplier_for, tight_epsilon
from server.privacy.schedule import Schedule

_MOST_STEPS = 12


@dataclass(frozen=True)
class RoundEpsilon:
    """Epsilon after `round` rounds: `tight` by privacy loss distributions, `ledger` as a device counts."""

    round: int
    tight: float
    ledger: float


@dataclass(frozen=True)
class PrivacyPlan:
    """What keeps `schedule` within `target`, for a device that takes part in every round."""

    target: Target
    schedule: Schedule
    noise_multiplier: float
    rounds: tuple[RoundEpsilon, ...]


def plan_privacy(target: Target, schedule: Schedule) -> PrivacyPlan:
    """Find the noise, and epsilon after at most 13 of the rounds, the first and the last among them.

    Raises `InvalidValueError`.
    """
    noise = noise_multiplier_for(target, schedule)
    return PrivacyPlan(
        target, schedule, noise, tuple(_after(rounds, target, schedule, noise) for rounds in _shown(schedule.rounds))
    )


def _after(rounds: int, target: Target, schedule: Schedule, noise: float) -> RoundEpsilon:
    releases = schedule.releases(noise, rounds)
    return RoundEpsilon(rounds, tight_epsilon(releases, target.delta), ledger_epsilon(releases, target.delta))


def _shown(rounds: int) -> list[int]:
    """1, `rounds`, and between them multiples of the least of 1, 2, 5, 10, 20, 50... that leaves at most 13."""
    step = next(
        step for power in count() for step in (10**power, 2 * 10**power, 5 * 10**power) if rounds <= _MOST_STEPS * step
    )
    return sorted({1, rounds, *range(step, rounds, step)})
