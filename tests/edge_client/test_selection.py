import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.selection import select
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.sub_model import kept_count, widths_at


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def halves(scores) -> dict[str, int]:
    return {group: len(values) // 2 for group, values in scores.items()}


@pytest.mark.parametrize("width", [0, 3])
def test_a_width_that_a_group_cannot_have_is_refused(width):
    with pytest.raises(InvalidValueError, match=f"width of a must be 1 to 2, got {width}"):
        select("fisher", {"a": np.ones(2, np.float32)}, {"a": width}, generator())


def test_groups_keep_each_its_own_width():
    scores = {"a": np.array([1, 5, 3], np.float32), "b": np.array([4, 2, 6], np.float32)}
    kept = select("fisher", scores, {"a": 1, "b": 2}, generator()).kept
    assert {group: indices.tolist() for group, indices in kept.items()} == {"a": [1], "b": [0, 2]}


def test_fisher_keeps_the_largest_scores_of_each_group():
    scores = {"a": np.array([0.5, 3, 1, 2], np.float32), "b": np.array([9, 8, 0.1, 0], np.float32)}
    kept = select("fisher", scores, halves(scores), generator()).kept
    assert {group: indices.tolist() for group, indices in kept.items()} == {"a": [1, 3], "b": [0, 1]}


def test_among_equal_scores_the_lower_index_wins():
    scores = {"a": np.array([1, 2, 1, 1, 2, 1], np.float32), "b": np.zeros(6, np.float32)}
    kept = select("fisher", scores, halves(scores), generator()).kept
    assert {group: indices.tolist() for group, indices in kept.items()} == {"a": [0, 1, 4], "b": [0, 1, 2]}


@given(
    scores=st.lists(st.floats(0, 2.0**60, width=32), min_size=1, max_size=50),
    keep=st.floats(0.01, 1.0),
    seed=st.integers(0, 9),
)
def test_fisher_drops_no_neuron_that_outscores_a_kept_one_and_needs_no_chance(scores, keep, seed):
    values = np.array(scores, np.float32)
    kept = select("fisher", {"a": values}, {"a": kept_count(keep, len(values))}, generator(seed)).kept["a"]
    dropped = np.setdiff1d(np.arange(len(values)), kept)
    assert len(kept) == kept_count(keep, len(values))
    assert values[dropped].max(initial=0) <= values[kept].min()


def test_random_keeps_every_neuron_equally_often_whatever_its_score():
    scores = {"a": np.arange(8, dtype=np.float32)}
    draw = generator()
    counts = np.bincount(
        np.concatenate([select("random", scores, {"a": 2}, draw).kept["a"] for _ in range(4000)]), minlength=8
    )
    assert counts.sum() == 8000
    assert np.all(np.abs(counts - 1000) < 150)


@pytest.mark.parametrize(("keep", "size", "count"), [(0.25, 8, 2), (0.01, 8, 1), (1.0, 8, 8), (0.6, 5, 3), (0.5, 1, 1)])
def test_count_is_the_rounded_share_and_at_least_one_as_on_the_server(keep, size, count):
    assert kept_count(keep, size) == count
    layout = Layout((Parameter("w", (size,), (CutAxis(0, "g"),)),), (NeuronGroup("g", size),))
    assert widths_at(layout, keep) == {"g": count}


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1])
def test_an_impossible_share_is_refused(keep):
    with pytest.raises(InvalidValueError, match="keep must be above 0 and at most 1"):
        kept_count(keep, 8)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value):
    with pytest.raises(InvalidValueError, match="scores of a must be finite"):
        select("fisher", {"a": np.array([1, value], np.float32)}, {"a": 1}, generator())
