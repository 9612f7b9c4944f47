"""The noise that keeps a run within a promised epsilon, and the epsilon that noise gives, by dp-accounting.

Two figures stand beside each other. The ledger's is what a device's own accountant says, by Renyi divergences at whole
orders where releases are sampled and at fractional ones too where none is; devices refuse to go past their cap by it,
so noise is found by it. The tight one, by privacy loss distributions (Koskela, Jalko and Honkela, 2020; Doroshenko et
al., 2022), is nearer to what is really lost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, floor, log10, sqrt

import dp_accounting
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from dp_accounting.rdp.rdp_privacy_accountant import DEFAULT_RDP_ORDERS

from server.privacy.schedule import RecordSchedule, Schedule
from wire_protocol.errors import require
from wire_protocol.privacy import GaussianReleases

LEAST_EPSILON, MOST_EPSILON = 0.05, 50.0
LEAST_DELTA, MOST_DELTA = 1e-12, 0.1
_WHOLE_ORDERS = [order for order in DEFAULT_RDP_ORDERS if order == int(order)]
_LEAST_NOISE, _GUESSED_NOISE = 0.05, 1.0
"""With the least noise any release costs more than the most epsilon."""
_ROUNDING = 1e-6
"""By this fraction of epsilon dp-accounting's and a device's rounding may differ."""
_DIGITS = 4


@dataclass(frozen=True)
class Target:
    """(`epsilon`, `delta`)-differential privacy, from 0.05 to 50 and from 1e-12 to 0.1, else `InvalidValueError`."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        legal = f"{LEAST_EPSILON:g} to {MOST_EPSILON:g}"
        require(LEAST_EPSILON <= self.epsilon <= MOST_EPSILON, "epsilon", self.epsilon, legal)
        require(LEAST_DELTA <= self.delta <= MOST_DELTA, "delta", self.delta, f"{LEAST_DELTA:g} to {MOST_DELTA:g}")


def noise_multiplier_for(target: Target, schedule: Schedule) -> float:
    """The least noise multiplier, rounded up to four digits, at which all rounds stay within `target` by the ledger.

    With counts beside the values, z makes up for them: z = (w^-2 - y^-2)^-1/2, w being what it takes without them and y
    their own multiplier (Andrew et al., 2021, Theorem 1). Raises `InvalidValueError` where the scores or the counts
    alone reach `target.epsilon`.
    """
    counts = schedule.count_noise_multiplier
    schedule = replace(schedule, count_noise_multiplier=0.0)
    if isinstance(schedule, RecordSchedule) and schedule.score_noise_multiplier > 0:
        _require_room_beside_scores(target, schedule)
    alone = _calibrated(target, lambda noise: schedule.releases(noise, schedule.rounds), _orders_of(schedule))
    if counts == 0:
        return alone
    legal = f"0, or above {alone:g}, where they cost all of epsilon {target.epsilon:g}"
    require(counts > alone, "count_noise_multiplier", counts, legal)
    return _rounded_up(alone / sqrt(1 - (alone / counts) ** 2))


def ledger_epsilon(releases: Sequence[GaussianReleases], delta: float) -> float:
    """What a device's ledger says after `releases`, within rounding."""
    return float(RdpAccountant(_orders(releases)).compose(_event(releases)).get_epsilon(delta))


def tight_epsilon(releases: Sequence[GaussianReleases], delta: float) -> float:
    """What privacy loss distributions, rounded up to steps of 1e-4, say after `releases`."""
    return float(PLDAccountant().compose(_event(releases)).get_epsilon(delta))


def _require_room_beside_scores(target: Target, schedule: RecordSchedule) -> None:
    count = schedule.resyncs(schedule.rounds)
    least = _calibrated(target, lambda noise: (GaussianReleases(noise, count=count),), _orders_of(schedule))
    legal = f"0, or above {least:g}, where {count} releases of scores cost all of epsilon {target.epsilon:g}"
    noise = schedule.score_noise_multiplier
    require(noise > least, "score_noise_multiplier", noise, legal)


def _calibrated(
    target: Target, releases_with: Callable[[float], Sequence[GaussianReleases]], orders: Sequence[float]
) -> float:
    noise: float = dp_accounting.calibrate_dp_mechanism(
        lambda: RdpAccountant(orders),
        lambda noise: _event(releases_with(noise)),
        target.epsilon * (1 - _ROUNDING),
        target.delta,
        dp_accounting.LowerEndpointAndGuess(_LEAST_NOISE, _GUESSED_NOISE),
    )
    return _rounded_up(noise)


def _rounded_up(noise: float) -> float:
    scale = 10.0 ** (_DIGITS - 1 - floor(log10(noise)))
    return ceil(noise * scale) / scale


def _orders_of(schedule: Schedule) -> Sequence[float]:
    return _orders(schedule.releases(_GUESSED_NOISE, schedule.rounds))


def _orders(releases: Sequence[GaussianReleases]) -> Sequence[float]:
    sampled = any(release.sampling_rate < 1 for release in releases)
    return _WHOLE_ORDERS if sampled else DEFAULT_RDP_ORDERS


def _event(releases: Sequence[GaussianReleases]) -> dp_accounting.DpEvent:
    return dp_accounting.ComposedDpEvent(
        [dp_accounting.SelfComposedDpEvent(_one(release), release.count) for release in releases]
    )


def _one(release: GaussianReleases) -> dp_accounting.DpEvent:
    sum_with_noise = dp_accounting.GaussianDpEvent(release.noise_multiplier)
    if release.sampling_rate == 1:
        return sum_with_noise
    return dp_accounting.PoissonSampledDpEvent(release.sampling_rate, sum_with_noise)
