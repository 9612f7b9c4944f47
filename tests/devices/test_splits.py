import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from devices.emulation.datasets import load_dataset
from devices.emulation.splits import dirichlet_split, natural_split
from wire_protocol.errors import InvalidValueError
from wire_protocol.examples import ExamplesError


def class_shares(labels: np.ndarray, parts: list[np.ndarray]) -> np.ndarray:
    """Share of each class in each device's data: (devices, classes)."""
    counts = np.array([np.bincount(labels[part], minlength=labels.max() + 1) for part in parts])
    return counts / counts.sum(axis=1, keepdims=True)


@settings(deadline=None)
@given(
    labels=arrays.arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 12)),
    devices=st.integers(1, 20),
    alpha=st.floats(1e-3, 1e6),
    seed=st.integers(0, 2**32),
    minimum=st.integers(1, 12),
)
def test_every_example_is_on_one_device_and_every_device_has_enough(labels, devices, alpha, seed, minimum):
    if len(labels) < devices * minimum:
        with pytest.raises(ExamplesError, match=f"{len(labels)} training examples are too few for {devices} devices"):
            dirichlet_split(labels, devices, alpha, seed, minimum)
        return
    parts = dirichlet_split(labels, devices, alpha, seed, minimum)
    assert len(parts) == devices
    assert min(len(part) for part in parts) >= minimum
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    assert all(part.dtype == np.int64 and (np.diff(part) > 0).all() for part in parts)


def test_the_seed_decides_the_split():
    labels = load_dataset("digits", None, seed=0).train.y
    first, again, other = (dirichlet_split(labels, 8, 0.5, seed) for seed in (7, 7, 8))
    assert all(np.array_equal(left, right) for left, right in zip(first, again, strict=True))
    assert not all(np.array_equal(left, right) for left, right in zip(first, other, strict=True))


def test_a_small_alpha_skews_classes_and_a_large_one_does_not():
    labels = load_dataset("digits", None, seed=0).train.y
    skewed = class_shares(labels, dirichlet_split(labels, 8, 0.01, seed=1))
    mixed = class_shares(labels, dirichlet_split(labels, 8, 1e6, seed=1))
    assert skewed.max(axis=1).mean() > 0.4
    assert np.abs(mixed - 0.1).max() < 0.02


def test_class_shares_follow_the_dirichlet_distribution():
    """A device's share of a class is Beta(alpha, (devices - 1) alpha): mean 1/4, variance 3/16/(4 alpha + 1)."""
    labels = np.zeros(2000, dtype=np.int64)
    shares = np.array([[len(part) for part in dirichlet_split(labels, 4, 0.5, seed)] for seed in range(400)]) / 2000
    assert shares.mean(axis=0) == pytest.approx([0.25] * 4, abs=0.04)
    assert shares.var(axis=0) == pytest.approx([3 / 16 / 3] * 4, rel=0.25)


def test_exactly_enough_examples_are_enough():
    parts = dirichlet_split(np.zeros(12, dtype=np.int64), devices=4, alpha=1e-3, seed=0, minimum=3)
    assert [len(part) for part in parts] == [3, 3, 3, 3]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"devices": 0}, "devices"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": -1.0}, "alpha"),
        ({"alpha": float("nan")}, "alpha"),
        ({"alpha": float("inf")}, "alpha"),
        ({"seed": -1}, "seed"),
        ({"minimum": 0}, "minimum"),
    ],
)
def test_arguments_out_of_range_are_named(arguments, field):
    legal = {"devices": 2, "alpha": 0.5, "seed": 0, "minimum": 1}
    with pytest.raises(InvalidValueError, match=f"^{field} must be"):
        dirichlet_split(np.zeros(100, dtype=np.int64), **{**legal, **arguments})


def test_a_natural_split_follows_the_owners():
    parts = natural_split(np.array([2, 0, 1, 0, 2, 2]))
    assert [part.tolist() for part in parts] == [[1, 3], [2], [0, 4, 5]]


@pytest.mark.parametrize("owners", [[], [0, 2], [-1, 0]])
def test_a_natural_split_refuses_devices_without_examples(owners):
    with pytest.raises(InvalidValueError):
        natural_split(np.array(owners, dtype=np.int64))
