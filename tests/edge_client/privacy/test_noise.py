"""Noise: how much, where, and that nobody can repeat it."""

import numpy as np
import pytest
from scipy import stats

from edge_client.privacy.noise import add_gaussian_noise, fresh_generator
from wire_protocol.errors import InvalidValueError

ARRAYS = {"a": np.full((40, 50), 3.0, np.float32), "b": np.zeros(500, np.float32)}


def test_every_entry_gets_noise_of_its_own_of_the_deviation_given():
    noisy = add_gaussian_noise(ARRAYS, 0.5, fresh_generator())
    noise = np.concatenate([(noisy[name] - array).ravel() for name, array in ARRAYS.items()])
    assert stats.kstest(noise, stats.norm(0, 0.5).cdf).pvalue > 1e-4
    assert {array.dtype for array in noisy.values()} == {np.dtype(np.float32)}
    assert len(np.unique(noise)) > 0.99 * len(noise)


def test_fresh_generators_agree_in_nothing():
    first, second = (fresh_generator().standard_normal(1000) for _ in range(2))
    assert not np.intersect1d(first, second).size


def test_a_generator_that_is_given_can_be_repeated():
    one, again = (add_gaussian_noise(ARRAYS, 0.5, np.random.default_rng(3)) for _ in range(2))
    for name, array in one.items():
        np.testing.assert_array_equal(array, again[name])


@pytest.mark.parametrize("stddev", [0.0, -1.0, float("nan"), float("inf")])
def test_a_deviation_that_is_none_is_refused(stddev):
    with pytest.raises(InvalidValueError, match="stddev must be above 0 and finite, got"):
        add_gaussian_noise(ARRAYS, stddev, fresh_generator())
