from dataclasses import replace
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.selection.policies import POLICIES, may_score, select
from edge_client.selection.policy import Ground
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import RoundPlan, SelectionPolicy
from wire_protocol.sub_model import kept_count, widths_at

LAYOUT = Layout(
    (
        Parameter("first", (4, 2), (CutAxis(0, "a", produces=True),)),
        Parameter("first.bias", (4,), (CutAxis(0, "a", produces=True),)),
        Parameter("gates", (2, 12), (CutAxis(1, "b", block=2, repeat=2, produces=True),)),
        Parameter("reads", (3, 4), (CutAxis(1, "a"),)),
    ),
    (NeuronGroup("a", 4), NeuronGroup("b", 3)),
)
PARAMETERS = {
    "first": np.array([[1, -1], [0, 0], [-3, 0.5], [2, 1]], np.float32),
    "first.bias": np.array([0.5, -3, 0, 0], np.float32),
    "gates": np.array([[1, 1, 0, 0, 2, 2, 1, 1, 0, 9, 0, 0], [0] * 12], np.float32),
    "reads": np.full((3, 4), 100, np.float32) * np.array([9, 1, 1, 9], np.float32),
}


def never_scored():
    raise AssertionError("nothing should be scored")


def ground(seed=0, **changes) -> Ground:
    base = Ground(LAYOUT, {"a": 2, "b": 1}, PARAMETERS, 1, np.random.default_rng(seed), never_scored, {})
    return replace(base, **changes)


def kept(policy: SelectionPolicy, given: Ground) -> dict[str, list[int]]:
    return {group: indices.tolist() for group, indices in select(policy, given).kept.items()}


def scored(scores) -> dict:
    """Changes of `ground` for one group with these scores."""
    values = np.array(scores, np.float32)
    return {"score": lambda: {"a": values}, "widths": {"a": max(1, len(values) // 2)}}


def test_every_policy_of_the_protocol_is_there():
    assert set(POLICIES) == set(get_args(SelectionPolicy))


def test_fisher_keeps_the_largest_scores_of_each_group():
    scores = {"a": np.array([0.5, 3, 1, 2], np.float32), "b": np.array([9, 8, 0.1], np.float32)}
    assert kept("fisher", ground(score=lambda: scores)) == {"a": [1, 3], "b": [0]}


def test_among_equal_scores_the_lower_index_wins():
    assert kept("fisher", ground(**scored([1, 2, 1, 1, 2, 1]))) == {"a": [0, 1, 4]}
    assert kept("fisher", ground(**scored([0, 0, 0, 0]))) == {"a": [0, 1]}


@given(st.lists(st.floats(0, 2.0**60, width=32), min_size=1, max_size=50), st.integers(0, 9))
def test_fisher_drops_no_neuron_that_outscores_a_kept_one_and_needs_no_chance(scores, seed):
    values = np.array(scores, np.float32)
    chosen = select("fisher", ground(seed, **scored(scores))).kept["a"]
    dropped = np.setdiff1d(np.arange(len(values)), chosen)
    assert len(chosen) == max(1, len(values) // 2)
    assert values[dropped].max(initial=0) <= values[chosen].min()


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_scores_that_are_not_finite_are_refused(value):
    with pytest.raises(InvalidValueError, match="scores of a must be finite"):
        select("fisher", ground(**scored([1, value])))


def test_a_cohort_keeps_the_front_of_the_fleets_ranking_and_scores_nothing():
    ranking = {"a": np.array([3, 0, 2, 1]), "b": np.array([2, 0, 1])}
    assert kept("fisher-cohort", ground(ranking=ranking)) == {"a": [0, 3], "b": [2]}
    assert kept("fisher-cohort", ground(ranking=ranking, widths={"a": 1, "b": 3})) == {"a": [3], "b": [0, 1, 2]}


def test_a_cohort_without_a_ranking_chooses_as_fisher_does():
    assert kept("fisher-cohort", ground(**scored([1, 4, 3, 2]))) == {"a": [1, 2]}


def test_random_keeps_every_neuron_equally_often():
    draw = np.random.default_rng(0)
    chosen = [select("random", ground(generator=draw)).kept["a"] for _ in range(4000)]
    counts = np.bincount(np.concatenate(chosen), minlength=4)
    assert counts.sum() == 8000
    assert np.all(np.abs(counts - 2000) < 200)
    assert all(len(set(one.tolist())) == 2 for one in chosen)


def test_magnitude_sums_what_neurons_own_and_not_what_reads_them():
    # a: |row| + |bias| = 2.5, 3, 3.5, 3. b: neuron n owns columns 2n, 2n + 1 of each half: 1 + 1 + 1 + 1, 9, 2 + 2.
    assert kept("magnitude", ground()) == {"a": [1, 2], "b": [1]}
    assert kept("magnitude", ground(widths={"a": 3, "b": 2})) == {"a": [1, 2, 3], "b": [0, 1]}


def test_prefix_keeps_the_first_neurons():
    assert kept("prefix", ground()) == {"a": [0, 1], "b": [0]}


@pytest.mark.parametrize(
    ("resync_round", "a", "b"), [(1, [0, 1], [0]), (2, [1, 2], [1]), (4, [0, 3], [0]), (6, [1, 2], [2])]
)
def test_the_window_rolls_on_by_a_neuron_a_round_and_wraps_around(resync_round, a, b):
    assert kept("rolling", ground(resync_round=resync_round)) == {"a": a, "b": b}


def test_full_keeps_all():
    assert kept("full", ground()) == {"a": [0, 1, 2, 3], "b": [0, 1, 2]}


def plan(selection: SelectionPolicy, keep=0.5, round_=3, resync_round=3) -> RoundPlan:
    return RoundPlan(
        run="r", round=round_, resync_round=resync_round, model_version=0, bundle="0" * 64, model="0" * 64,
        deadline=0.0, local_steps=1, batch_size=1, learning_rate=0.1, keep=keep, selection=selection,
    )  # fmt: skip


def test_what_a_plan_asks_for():
    assert plan("prefix").largest_widths(LAYOUT) == {"a": 2, "b": 2}
    assert plan("full").largest_widths(LAYOUT) == {"a": 4, "b": 3}
    assert [name for name in POLICIES if may_score(plan(name), LAYOUT, narrowed=False)] == ["fisher", "fisher-cohort"]
    assert not may_score(plan("fisher", keep=1.0), LAYOUT, narrowed=False)
    assert may_score(plan("fisher", keep=1.0), LAYOUT, narrowed=True)
    assert not may_score(plan("fisher"), Layout((Parameter("w", (2,)),)), narrowed=True)
    assert [name for name in POLICIES if plan(name).wants_scores] == ["fisher-cohort"]
    assert not plan("fisher-cohort", round_=4).wants_scores


@pytest.mark.parametrize(("keep", "size", "count"), [(0.25, 8, 2), (0.01, 8, 1), (1.0, 8, 8), (0.6, 5, 3), (0.5, 1, 1)])
def test_count_is_the_rounded_share_and_at_least_one_as_on_the_server(keep, size, count):
    assert kept_count(keep, size) == count
    layout = Layout((Parameter("w", (size,), (CutAxis(0, "g"),)),), (NeuronGroup("g", size),))
    assert widths_at(layout, keep) == {"g": count}


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1])
def test_an_impossible_share_is_refused(keep):
    with pytest.raises(InvalidValueError, match="keep must be above 0 and at most 1"):
        kept_count(keep, 8)
