"""The audit of `benchmarks/privacy_audit.py` in small: it lets right code pass and finds what is not accounted for."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from scipy import stats

from benchmarks.audit_bounds import Level, audit, epsilon_bound
from benchmarks.audit_canaries import CanaryDevice, Seen, WholeDevice, as_devices_do, attacks, try_devices
from benchmarks.audit_faults import ClipsEachParameter, DividesByTheDrawn, FaultyTraining, with_a_seed
from benchmarks.privacy_audit import DEVICE, NO_NOISE, RECORD, with_changes

LEVEL = Level(delta=1e-2, confidence=0.99)
CANARIES, DEVICES = 150, 240
CLAIM = RECORD.claimed(LEVEL.delta)


@pytest.fixture(scope="module")
def device(tmp_path_factory):
    return CanaryDevice(tmp_path_factory.mktemp("canaries") / "bundle", CANARIES)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return WholeDevice(tmp_path_factory.mktemp("whole") / "bundle")


def bound(device, accounted, devices=DEVICES, open_runtime=as_devices_do, **changes):
    generator = np.random.default_rng(1)
    done = with_changes(accounted, **changes)
    trials = try_devices(device, devices, done, lambda: generator, open_runtime)
    return audit(attacks(trials.seen, accounted), trials.there, LEVEL).epsilon


def test_what_devices_do_is_never_found_above_the_claim_and_is_seen_near_it(device):
    assert 0.3 * CLAIM < bound(device, RECORD) <= CLAIM


@pytest.mark.parametrize(
    "changes",
    [
        {"noise_multiplier": NO_NOISE},
        {"noise_multiplier": RECORD.privacy.noise_multiplier / 2},
        {"sampling_rate": 1.0},
    ],
    ids=["no noise", "half the noise", "every record in every batch"],
)
def test_what_is_not_accounted_for_is_found(device, changes):
    assert bound(device, RECORD, **changes) > CLAIM


def test_noise_that_repeats_is_found(device):
    assert bound(device, RECORD, open_runtime=with_a_seed) > CLAIM


def test_clipping_by_parameter_is_found(device):
    assert bound(device, RECORD, open_runtime=partial(FaultyTraining, ClipsEachParameter)) > CLAIM


def test_a_divisor_that_depends_on_the_batch_is_found(tmp_path):
    alone = CanaryDevice(tmp_path / "bundle", 1)
    faulty = partial(FaultyTraining, DividesByTheDrawn)
    assert bound(alone, RECORD, 1000, faulty) > CLAIM


def test_device_mode_is_never_found_above_the_claim_and_is_with_less_noise(whole):
    claim = DEVICE.claimed(LEVEL.delta)
    assert 0.2 * claim < bound(whole, DEVICE, 3000) <= claim
    assert bound(whole, DEVICE, 600, noise_multiplier=NO_NOISE) > claim
    assert bound(whole, DEVICE, 3000, noise_multiplier=DEVICE.privacy.noise_multiplier / 2) > claim


def test_faults_are_the_only_difference_to_what_devices_do(device):
    """What the faulty runtime does without a fault."""
    right = partial(FaultyTraining, DividesByTheDrawn.__base__)
    there = np.arange(CANARIES) % 2 == 0
    seen = [device.seen(there, RECORD, partial(np.random.default_rng, 3), kind) for kind in (as_devices_do, right)]
    np.testing.assert_array_equal(seen[0].along, seen[1].along)


@pytest.mark.parametrize("steps", [1, 2])
def test_canaries_are_seen_as_the_likelihood_says(device, steps):
    """A canary of norm C drawn at the rate q, N(0, (z C)^2) for every step, and nothing of the others."""
    rounds = replace(RECORD, rounds=1, local_steps=steps)
    generator = np.random.default_rng(2)
    trials = try_devices(device, 60, rounds, lambda: generator)
    along, there = trials.seen.along[:, 0], trials.there
    z, q = rounds.privacy.noise_multiplier, rounds.privacy.sampling_rate
    drawn = stats.binom(steps, q)

    def density(x):
        return sum(drawn.pmf(k) * stats.norm(k, z * np.sqrt(steps)).pdf(x) for k in range(steps + 1))

    def below(x):
        return sum(drawn.pmf(k) * stats.norm(k, z * np.sqrt(steps)).cdf(x) for k in range(steps + 1))

    absent = stats.norm(0, z * np.sqrt(steps))
    assert stats.kstest(along[~there], absent.cdf).pvalue > 1e-3
    assert stats.kstest(along[there], below).pvalue > 1e-3
    expected = np.log(density(along)) - absent.logpdf(along)
    np.testing.assert_allclose(attacks(trials.seen, rounds)["likelihood"], expected, atol=1e-6)


def test_bounds_are_those_of_clopper_and_pearson():
    level = Level(delta=1e-3, confidence=0.95)
    for hits, alarms in ((30, 2), (100, 0), (100, 100), (5, 60)):
        least = stats.binomtest(hits, 100).proportion_ci(0.95, "exact").low
        most = stats.binomtest(alarms, 100).proportion_ci(0.95, "exact").high
        found = epsilon_bound(np.array(hits), 100, np.array(alarms), 100, level)
        assert found == pytest.approx(np.log((least - 1e-3) / most), abs=1e-9)
    assert epsilon_bound(np.array(0), 100, np.array(1), 100, level) == -np.inf


@pytest.mark.parametrize("swapped", [False, True])
def test_a_mechanism_whose_epsilon_is_known_is_bounded_as_often_as_promised(swapped):
    """Randomised response of epsilon 1, told of a record that is there, or in its absence."""
    generator, level, truth = np.random.default_rng(4), Level(0.0, 0.8), 1.0
    above = 0
    for _ in range(200):
        there = generator.random((200, 1)) < 0.5
        says = there ^ (generator.random(there.shape) < 1 / (1 + np.exp(truth))) ^ swapped
        above += audit({"itself": says.astype(float)}, there, level).epsilon > truth
    assert above <= stats.binom(200, 0.2).ppf(0.999)


def test_an_attack_without_knowledge_bounds_nothing():
    generator = np.random.default_rng(5)
    there = generator.random((400, 20)) < 0.5
    noise = Seen(generator.standard_normal((400, 4, 20)), np.ones((400, 4)))
    assert audit(attacks(noise, RECORD), there, Level(0.0, 0.999)).epsilon == 0
