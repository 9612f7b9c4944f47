"""How much privacy a device has spent: a Renyi accountant of Gaussian releases, in numpy alone.

A release of a sum over records, each in it with probability q, plus noise of standard deviation sigma times what one
record can change, has between neighbours, one record added or removed, at an integer order n >= 2 a Renyi divergence
D_n of at most (Mironov, Talwar and Zhang, 2019, "Renyi Differential Privacy of the Sampled Gaussian Mechanism", 3.3)

    log(sum_{k=0..n} binomial(n, k) (1 - q)^(n - k) q^k exp((k^2 - k) / (2 sigma^2))) / (n - 1)

and at any order a > 1 of a / (2 sigma^2) where q = 1. Between integers releases with q < 1 count as infinite here, so
that epsilon comes of the whole orders. Divergences of releases add up, also where each depends on what came out before
(Mironov, 2017, Proposition 1). The orders are those of dp-accounting, whose Renyi accountant is never above this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import lgamma, log, log1p

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.privacy import GaussianReleases

Vector = NDArray[np.float64]

_WHOLE = np.array([*range(2, 64), 128, 256, 512, 1024])
ORDERS: Vector = np.union1d(np.arange(11, 110) / 10, _WHOLE)
"""At which divergences are counted: 1.1 to 10.9 in steps of 0.1, 11 to 63, 128, 256, 512, 1024."""

_IS_WHOLE = np.isin(ORDERS, _WHOLE)
_N = np.concatenate([np.full(n - 1, n) for n in _WHOLE])
_K = np.concatenate([np.arange(2, n + 1) for n in _WHOLE])
_FIRST = np.flatnonzero(_K == 2)
_LOG_FACTORIALS: Vector = np.array([lgamma(n + 1) for n in range(int(_WHOLE[-1]) + 1)])
_LOG_BINOMIALS = _LOG_FACTORIALS[_N] - _LOG_FACTORIALS[_K] - _LOG_FACTORIALS[_N - _K]

_CACHED_KINDS = 64


@dataclass(frozen=True)
class Spent:
    """What releases have cost: a bound on the Renyi divergence at each of `ORDERS`, at least 0, maybe infinite."""

    divergences: tuple[float, ...]

    def __post_init__(self) -> None:
        require(len(self.divergences) == len(ORDERS), "divergences", len(self.divergences), f"{len(ORDERS)} numbers")
        lowest = float(np.min(self.divergences))
        require(lowest >= 0, "divergences", lowest, "at least 0")

    def spend(self, releases: Iterable[GaussianReleases]) -> Spent:
        """This and `releases` more."""
        total = np.array(self.divergences)
        for release in releases:
            total += release.count * _divergences(release.noise_multiplier, release.sampling_rate)
        return Spent(tuple(total.tolist()))

    def epsilon(self, delta: float) -> float:
        """The epsilon, at least 0, maybe infinite, at which all of it is (epsilon, `delta`)-differentially private.

        `delta` is above 0 and below 1, else `InvalidValueError`. The bound is Proposition 12 of Canonne, Kamath and
        Steinke, "The Discrete Gaussian for Differential Privacy" (2020); where the Kullback-Leibler divergence shows
        that the total variation is at most `delta` (Bretagnolle and Huber, 1979), it is 0.
        """
        require(0 < delta < 1, "delta", delta, "above 0 and below 1")
        divergences = np.array(self.divergences)
        if np.any(delta**2 + np.expm1(-divergences) > 0):
            return 0.0
        bounds = divergences + np.log1p(-1 / ORDERS) - (log(delta) + np.log(ORDERS)) / (ORDERS - 1)
        return max(0.0, float(np.min(bounds)))


NOTHING = Spent((0.0,) * len(ORDERS))
"""What a device has spent that never released anything."""


@lru_cache(_CACHED_KINDS)
def _divergences(noise_multiplier: float, sampling_rate: float) -> Vector:
    """Of one release at each of `ORDERS`; not to be written to."""
    divergences: Vector = np.full(len(ORDERS), np.inf)
    with np.errstate(over="ignore", divide="ignore"):
        half_precision = np.float64(0.5) / noise_multiplier / noise_multiplier
        if sampling_rate == 1:
            divergences[:] = ORDERS * half_precision
        else:
            divergences[_IS_WHOLE] = _log_moments(half_precision, sampling_rate) / (_WHOLE - 1)
    return divergences


def _log_moments(half_precision: np.float64, sampling_rate: float) -> Vector:
    """(n - 1) D_n at each of `_WHOLE`.

    Without its exponentials the sum is 1, and at k = 0 and 1 they are 1; so it is 1 + the terms from k = 2 with
    exp(...) - 1, all positive: nothing cancels.
    """
    exponents = (_K * _K - _K) * half_precision
    log_weights = _LOG_BINOMIALS + _K * log(sampling_rate) + (_N - _K) * log1p(-sampling_rate)
    log_excesses = exponents + np.log(-np.expm1(-exponents))
    return np.logaddexp(0.0, np.logaddexp.reduceat(log_weights + log_excesses, _FIRST))
