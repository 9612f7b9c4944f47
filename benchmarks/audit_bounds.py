"""From guesses whether a record was there to an epsilon that no mechanism with these guesses can be below.

Under (epsilon, delta)-differential privacy every guess has, between neighbours (Kairouz, Oh and Viswanath, 2015),

    P[says "there" | there] <= e^epsilon P[says "there" | not there] + delta

and the same with "there" and "not there" exchanged. So true and false positives that were counted, each with its exact
bound by Clopper and Pearson (1934), bound epsilon from below (Jagielski, Ullman and Oprea, 2020, "Auditing
differentially private machine learning"). Which attack guesses, and from which score on, is chosen on one half of the
devices, and only the guesses on the other half are counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta

Array = NDArray[Any]

_THRESHOLDS = 400
_RAREST = 1e-5
"""Thresholds are tried that from this share of all scores to all of them reach."""


@dataclass(frozen=True)
class Level:
    """The delta that is audited at, and how often a bound may be wrong: `confidence` 0.99 is once in a hundred."""

    delta: float
    confidence: float


@dataclass(frozen=True)
class Audited:
    """`epsilon` is the lower bound, at least 0, by guesses of `attack`; `hits` of `there`, `alarms` of `not_there`."""

    epsilon: float
    attack: str
    hits: int
    there: int
    alarms: int
    not_there: int


def audit(scores: Mapping[str, Array], there: Array, level: Level) -> Audited:
    """The bound by the best of several attacks.

    `there` is bool [devices, canaries], and so are the shapes of every attack's scores, high where it says "there".
    Devices are independent of each other; there are at least 2.
    """
    half = len(there) // 2
    guesses = [*_both_ways(scores, there)]
    best = max(
        (
            (*_best_threshold(score[:half], truth[:half], level), number)
            for number, (_, score, truth) in enumerate(guesses)
        ),
    )
    name, score, truth = guesses[best[2]]
    return _counted(name, score[half:] >= best[1], truth[half:], level)


def epsilon_bound(hits: Array, there: int, alarms: Array, not_there: int, level: Level) -> Array:
    """Below which epsilon is not, at the level's delta, with its confidence; -inf where nothing is said."""
    tail = (1 - level.confidence) / 2
    least_hits = np.where(hits > 0, beta.ppf(tail, np.maximum(hits, 1), there - hits + 1), 0.0)
    most_alarms = np.where(alarms < not_there, beta.ppf(1 - tail, alarms + 1, np.maximum(not_there - alarms, 1)), 1.0)
    with np.errstate(divide="ignore"):
        return np.log(np.maximum(least_hits - level.delta, 0.0) / most_alarms)


def _both_ways(scores: Mapping[str, Array], there: Array) -> list[tuple[str, Array, Array]]:
    """Name, score and truth of guesses "there", and of guesses "not there"."""
    says = [(name, score, there) for name, score in scores.items()]
    return says + [(f"{name}, not there", -score, ~there) for name, score in scores.items()]


def _best_threshold(score: Array, truth: Array, level: Level) -> tuple[float, float]:
    """The highest bound, and the score from which on a guess is made."""
    inside, outside = np.sort(score[truth]), np.sort(score[~truth])
    shares = np.geomspace(_RAREST, 1, _THRESHOLDS)
    tried = np.quantile(score, 1 - shares, method="higher")
    hits, alarms = (len(side) - np.searchsorted(side, tried) for side in (inside, outside))
    bounds = epsilon_bound(hits, len(inside), alarms, len(outside), level)
    best = int(np.argmax(bounds))
    return float(bounds[best]), float(tried[best])


def _counted(name: str, says: Array, truth: Array, level: Level) -> Audited:
    hits, alarms = int(says[truth].sum()), int(says[~truth].sum())
    there, not_there = int(truth.sum()), int((~truth).sum())
    bound = float(epsilon_bound(np.array(hits), there, np.array(alarms), not_there, level))
    return Audited(max(0.0, bound), name, hits, there, alarms, not_there)
