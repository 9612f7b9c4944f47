"""The device's own accountant is the judge of what the server calibrates."""

from dataclasses import replace
from math import exp, inf, log, nan

import dp_accounting
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client.privacy.accountant import NOTHING
from server.privacy.calibration import Target, ledger_epsilon, noise_multiplier_for, tight_epsilon
from server.privacy.schedule import DeviceSchedule, RecordSchedule
from wire_protocol.errors import InvalidValueError
from wire_protocol.privacy import GaussianReleases


def spread(low, high):
    return st.floats(log(low), log(high)).map(exp)


targets = st.builds(Target, spread(0.0501, 49.9), spread(1e-11, 1e-2))
rates = spread(1e-6, 0.999) | st.just(1.0)
records = st.builds(RecordSchedule, st.integers(1, 1000), st.integers(1, 200), rates)


@settings(max_examples=60, deadline=None)
@given(targets, records | st.builds(DeviceSchedule, st.integers(1, 10_000)))
def test_the_devices_accountant_stays_within_the_target_and_no_less_noise_would_do(target, schedule):
    noise = noise_multiplier_for(target, schedule)
    assert spent(schedule, noise).epsilon(target.delta) <= target.epsilon
    assert spent(schedule, 0.998 * noise).epsilon(target.delta) > target.epsilon


@settings(max_examples=15, deadline=None)
@given(targets, records, st.integers(1, 50), st.floats(1.003, 10))
def test_so_it_does_beside_scores(target, schedule, resync_every, ample):
    least = noise_multiplier_for(target, DeviceSchedule(-(-schedule.rounds // resync_every)))
    scored = RecordSchedule(schedule.rounds, schedule.local_steps, schedule.sampling_rate, least * ample, resync_every)
    noise = noise_multiplier_for(target, scored)
    assert spent(scored, noise).epsilon(target.delta) <= target.epsilon
    assert noise >= 0.999 * noise_multiplier_for(target, schedule)


@settings(max_examples=20, deadline=None)
@given(targets, records | st.builds(DeviceSchedule, st.integers(1, 10_000)), st.floats(1.01, 10))
def test_so_it_does_beside_counts(target, schedule, ample):
    alone = noise_multiplier_for(target, schedule)
    counted = replace(schedule, count_noise_multiplier=alone * ample)
    noise = noise_multiplier_for(target, counted)
    assert noise > alone
    assert spent(counted, noise).epsilon(target.delta) <= target.epsilon
    assert spent(counted, 0.99 * noise).epsilon(target.delta) > 0.99 * target.epsilon


def test_counts_that_alone_cost_all_of_epsilon_are_refused():
    target, schedule = Target(1.0, 1e-5), DeviceSchedule(10)
    alone = noise_multiplier_for(target, schedule)
    with pytest.raises(
        InvalidValueError, match=f"count_noise_multiplier must be 0, or above {alone:g}, where they cost"
    ):
        noise_multiplier_for(target, replace(schedule, count_noise_multiplier=alone))


def spent(schedule, noise):
    return NOTHING.spend(schedule.releases(noise, schedule.rounds))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.builds(GaussianReleases, spread(0.3, 100), rates, st.integers(1, 10_000)), min_size=1, max_size=3),
    spread(1e-10, 1e-2),
)
def test_the_ledgers_epsilon_is_the_devices(releases, delta):
    epsilon = NOTHING.spend(releases).epsilon(delta)
    if epsilon >= 0.05:
        assert ledger_epsilon(releases, delta) == pytest.approx(epsilon, rel=1e-6)


@pytest.mark.parametrize("epsilon", [0.1, 1.0, 8.0])
def test_the_tight_epsilon_of_one_update_is_the_analytic_one(epsilon):
    """Balle and Wang, 2018, "Improving the Gaussian Mechanism for Differential Privacy"."""
    noise = dp_accounting.get_sigma_gaussian(epsilon, 1e-5)
    assert tight_epsilon([GaussianReleases(noise)], 1e-5) == pytest.approx(epsilon, abs=2e-3)


def test_the_tight_epsilon_is_below_the_ledgers():
    for noise, rate, count in ((0.8, 0.01, 1000), (1.2, 0.1, 100), (6.0, 1.0, 30)):
        releases = [GaussianReleases(noise, rate, count), GaussianReleases(30.0, 1.0, 5)]
        assert 0 < tight_epsilon(releases, 1e-5) < ledger_epsilon(releases, 1e-5)


def test_scores_that_cost_all_of_epsilon_are_refused_with_the_least_noise():
    schedule = RecordSchedule(100, 20, 0.02, 2.0, 10)
    with pytest.raises(InvalidValueError) as caught:
        noise_multiplier_for(Target(4.0, 1e-5), schedule)
    text = (
        r"score_noise_multiplier must be 0, or above 3.662, where 10 releases of scores cost all of epsilon 4, got 2.0"
    )
    assert str(caught.value) == text
    assert NOTHING.spend([GaussianReleases(3.662, count=10)]).epsilon(1e-5) == pytest.approx(4, abs=2e-3)


@pytest.mark.parametrize(
    ("epsilon", "delta", "text"),
    [
        (0.0, 1e-5, "epsilon must be 0.05 to 50, got 0.0"),
        (51.0, 1e-5, "epsilon must be 0.05 to 50, got 51.0"),
        (nan, 1e-5, "epsilon must be 0.05 to 50, got nan"),
        (1.0, 0.0, "delta must be 1e-12 to 0.1, got 0.0"),
        (1.0, inf, "delta must be 1e-12 to 0.1, got inf"),
    ],
)
def test_targets_out_of_range_are_refused(epsilon, delta, text):
    with pytest.raises(InvalidValueError, match=f"^{text}$"):
        Target(epsilon, delta)
