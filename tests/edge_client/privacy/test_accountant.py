"""The device's accountant against dp-accounting's, and against sums to 60 digits."""

import itertools
from functools import lru_cache
from math import exp, inf, log, nan

import dp_accounting
import mpmath
import numpy as np
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.privacy.accountant import NOTHING, ORDERS, Spent
from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import GaussianReleases

NOISE = (0.3, 0.5, 0.8, 1.3, 3.0, 10.0, 30.0, 100.0)
RATES = (1e-4, 1e-3, 0.01, 0.05, 0.2, 0.5, 0.9, 1.0)
COUNTS = (1, 10, 100, 1000, 10_000, 100_000)
DELTAS = (1e-3, 1e-5, 1e-7, 1e-10)
ROUNDING = 1e-13
"""Of a logarithm of a moment in float64; it counts once a release."""
UNRELIABLE = 1e-12
"""Logarithms of moments below it are mostly rounding in dp-accounting, which then takes negative ones for no loss."""


@lru_cache(None)
def oracle_divergences(noise, rate):
    """dp-accounting's at each of `ORDERS`, of one release; infinite where its series does not converge."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("absl.logging.warning", lambda *_: None)
        accountant = RdpAccountant(ORDERS).compose(event_of(noise, rate))
    return accountant._rdp


def event_of(noise, rate):
    return dp_accounting.PoissonSampledDpEvent(rate, dp_accounting.GaussianDpEvent(noise))


def oracle_epsilon(total, delta):
    """By dp-accounting's conversion alone."""
    accountant = RdpAccountant(ORDERS)
    accountant._rdp = total
    return accountant.get_epsilon(delta)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("noise", NOISE)
def test_over_a_wide_grid_it_is_never_below_dp_accounting(noise, rate):
    oracle = oracle_divergences(noise, rate)
    for count in COUNTS:
        spent = NOTHING.spend([GaussianReleases(noise, rate, count)])
        for delta in DELTAS if reliable(oracle) else ():
            theirs, ours = oracle_epsilon(count * oracle, delta), spent.epsilon(delta)
            assert ours >= theirs * (1 - 1e-9) - count * ROUNDING


def reliable(divergences):
    return np.min(divergences * (ORDERS - 1)) > UNRELIABLE


def test_it_is_rarely_more_than_a_few_percent_above_dp_accounting():
    ratios = [
        NOTHING.spend([GaussianReleases(noise, rate, count)]).epsilon(delta) / theirs
        for noise, rate, count, delta in itertools.product(NOISE, RATES, COUNTS, DELTAS)
        if reliable(oracle := oracle_divergences(noise, rate))
        and 0.05 <= (theirs := oracle_epsilon(count * oracle, delta)) <= 10
    ]
    assert len(ratios) > 300
    assert np.median(ratios) < 1.001
    assert np.quantile(ratios, 0.85) < 1.05
    assert max(ratios) < 1.6


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("noise", NOISE)
def test_at_whole_orders_it_is_dp_accountings(noise, rate):
    whole = np.isin(ORDERS, range(2, 1025)) & (oracle_divergences(noise, rate) * (ORDERS - 1) > UNRELIABLE)
    ours = np.array(NOTHING.spend([GaussianReleases(noise, rate)]).divergences)[whole]
    assert ours == pytest.approx(oracle_divergences(noise, rate)[whole], rel=1e-9, abs=ROUNDING)


kinds = st.tuples(
    st.sampled_from(NOISE), st.sampled_from(RATES), st.integers(1, 5).map(lambda power: 10**power), st.integers(1, 9)
)


@settings(max_examples=150, deadline=None)
@given(st.lists(kinds, min_size=1, max_size=5), st.floats(log(1e-10), log(1e-3)).map(exp))
def test_mixed_releases_cost_no_less_than_dp_accounting_says(mix, delta):
    counted = [(noise, rate, power * digit) for noise, rate, power, digit in mix]
    spent = NOTHING
    for noise, rate, count in counted:
        spent = spent.spend([GaussianReleases(noise, rate, count)])
    oracles = [oracle_divergences(noise, rate) for noise, rate, _ in counted]
    total = sum(count * oracle for (*_, count), oracle in zip(counted, oracles, strict=True))
    releases = sum(count for *_, count in counted)
    if all(reliable(oracle) for oracle in oracles):
        assert spent.epsilon(delta) >= oracle_epsilon(total, delta) * (1 - 1e-9) - releases * ROUNDING
    assert NOTHING.spend(GaussianReleases(*kind) for kind in counted) == spent


@pytest.mark.parametrize("rate", [0.001, 0.05, 0.5, 1.0])
@pytest.mark.parametrize(("noise", "count"), [(0.5, 1), (0.8, 10), (1.3, 1000), (5.0, 10_000)])
@pytest.mark.parametrize("delta", [1e-3, 1e-6])
def test_it_is_never_below_the_tight_figure(noise, rate, count, delta):
    ours = NOTHING.spend([GaussianReleases(noise, rate, count)]).epsilon(delta)
    if ours < 50:
        assert ours >= PLDAccountant().compose(event_of(noise, rate), count).get_epsilon(delta)


@pytest.mark.parametrize(
    ("noise", "rate", "order"),
    [
        (0.3, 0.5, 2),
        (1.1, 0.01, 17),
        (100.0, 1e-4, 2),
        (1e4, 1e-6, 3),
        (8.0, 0.02, 128),
        (4.0, 1e-3, 1024),
        (1e6, 0.5, 63),
    ],
)
def test_moments_keep_their_digits_where_nearly_nothing_is_lost(noise, rate, order):
    with mpmath.workdps(60):
        q, precision = mpmath.mpf(rate), 1 / mpmath.mpf(noise) ** 2
        terms = (
            mpmath.binomial(order, k) * (1 - q) ** (order - k) * q**k * mpmath.exp((k * k - k) * precision / 2)
            for k in range(order + 1)
        )
        exact = float(mpmath.log(mpmath.fsum(terms)) / (order - 1))
    index = int(np.argmin(np.abs(ORDERS - order)))
    assert NOTHING.spend([GaussianReleases(noise, rate)]).divergences[index] == pytest.approx(exact, rel=1e-11)


@pytest.mark.parametrize("rate", [1e-300, 1e-4, 0.5, 1 - 2**-53, 1.0])
@pytest.mark.parametrize("noise", [5e-324, 1e-200, 1e-3, 0.02, 1e7, 1e200, 1.7e308])
def test_extremes_give_a_number_or_infinity_without_a_warning(noise, rate):
    for count in (1, 2**53):
        epsilon = NOTHING.spend([GaussianReleases(noise, rate, count)]).epsilon(1e-5)
        assert epsilon >= 0
        if noise < 0.1 and rate > 0.1:
            assert epsilon > 50


def test_more_releases_and_less_noise_cost_more():
    costs = [NOTHING.spend([GaussianReleases(1.0, 0.01, count)]).epsilon(1e-5) for count in (1, 10, 100, 1000)]
    assert costs == sorted(costs)
    costs = [NOTHING.spend([GaussianReleases(noise, 0.01, 100)]).epsilon(1e-5) for noise in (10.0, 1.0, 0.5, 0.1, 1e-3)]
    assert costs == sorted(costs)


def test_nothing_costs_nothing():
    assert NOTHING.epsilon(1e-10) == 0
    assert NOTHING.spend([]) == NOTHING


def test_one_release_of_all_records_costs_less_than_the_classical_bound():
    """rho = 1 / (2 sigma^2) zCDP gives rho + 2 sqrt(rho log(1 / delta)) (Bun and Steinke, 2016, Proposition 1.3)."""
    rho = 1 / (2 * 4.0**2)
    assert NOTHING.spend([GaussianReleases(4.0)]).epsilon(1e-5) < rho + 2 * (rho * log(1e5)) ** 0.5


@pytest.mark.parametrize("delta", [0.0, 1.0, -0.1, 1.5, nan, inf])
def test_delta_is_refused_outside_its_range(delta):
    with pytest.raises(InvalidValueError, match=f"^delta must be above 0 and below 1, got {delta!r}$"):
        NOTHING.epsilon(delta)


@pytest.mark.parametrize(
    ("divergences", "text"),
    [
        ((0.0,), f"divergences must be {len(ORDERS)} numbers, got 1"),
        ((nan,) * len(ORDERS), "divergences must be at least 0, got nan"),
        ((*(0.0,) * (len(ORDERS) - 1), -1e-9), "divergences must be at least 0, got -1e-09"),
    ],
)
def test_what_is_no_account_is_refused(divergences, text):
    with pytest.raises(InvalidValueError, match=f"^{text}$"):
        Spent(divergences)
