import numpy as np
import pytest
from edge_client.noise import add_gaussian_noise
from scipy import stats

from wire_protocol.errors import InvalidValueError

ARRAYS = {"a": np.full((100, 100), 3.0, dtype=np.float32), "b": np.zeros(7, dtype=np.float32)}


def test_noise_has_the_asked_distribution():
    noised = add_gaussian_noise(ARRAYS, 0.25, np.random.default_rng(1))
    assert noised["a"].dtype == np.float32
    assert stats.kstest((noised["a"] - 3).ravel(), stats.norm(0, 0.25).cdf).pvalue > 0.01
    assert np.all(noised["b"] != 0)
    assert np.all(ARRAYS["a"] == 3)


def test_without_a_generator_noise_is_fresh_even_under_a_global_seed():
    np.random.seed(0)
    first = add_gaussian_noise(ARRAYS, 1.0)["b"]
    np.random.seed(0)
    assert np.all(first != add_gaussian_noise(ARRAYS, 1.0)["b"])


def test_no_noise_leaves_values_as_they_are():
    np.testing.assert_array_equal(add_gaussian_noise(ARRAYS, 0.0)["a"], ARRAYS["a"])


@pytest.mark.parametrize("stddev", [-1.0, float("inf"), float("nan")])
def test_an_impossible_deviation_is_refused(stddev):
    with pytest.raises(InvalidValueError, match="stddev must be at least 0 and finite"):
        add_gaussian_noise(ARRAYS, stddev)
