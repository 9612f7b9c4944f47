from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.aggregation.buffered import (
    Buffer,
    BufferRule,
    Kept,
    Repeated,
    Stale,
    Trained,
    in_order,
    is_due,
    receive,
    released,
)
from server.aggregation.contribution import Contribution
from server.aggregation.masked_mean import WeightedMean
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import SubModel

RULE = BufferRule(goal=2, most_stale=3)


def test_a_version_is_due_at_the_goal_and_what_it_is_made_of_is_in_order() -> None:
    buffer = Buffer(version=5)
    buffer, verdict = receive(RULE, buffer, Trained(5, "b"))
    assert verdict == Kept(scale=1.0)
    assert not is_due(RULE, buffer)
    buffer, verdict = receive(RULE, buffer, Trained(2, "a"))
    assert verdict == Kept(scale=0.5)
    assert is_due(RULE, buffer)
    assert in_order(RULE, buffer) == [(Trained(2, "a"), 0.5), (Trained(5, "b"), 1.0)]
    assert released(RULE, buffer).version == 6
    assert not is_due(RULE, released(RULE, buffer))


@pytest.mark.parametrize(
    ("exponent", "staleness", "scale"),
    [(0.5, 0, 1), (0.5, 3, 0.5), (0.5, 15, 0.25), (0, 9, 1), (1, 3, 0.25)],
)
def test_the_discount_of_the_paper(exponent: float, staleness: int, scale: float) -> None:
    assert BufferRule(1, 20, exponent).discount(staleness) == pytest.approx(scale, rel=1e-15)


def test_what_is_too_old_or_from_the_future_is_refused_and_changes_nothing() -> None:
    buffer = Buffer(version=5)
    assert receive(RULE, buffer, Trained(1, "a")) == (
        buffer,
        Stale("update is 4 versions old, at most 3 are counted"),
    )
    assert receive(RULE, buffer, Trained(6, "a")) == (
        buffer,
        Stale("update was trained from version 6, the newest is 5"),
    )


def test_an_update_counts_once_even_when_it_is_sent_again_after_its_version_was_made() -> None:
    buffer, _ = receive(RULE, Buffer(5), Trained(5, "a"))
    assert receive(RULE, buffer, Trained(5, "a")) == (buffer, Repeated())
    buffer = released(RULE, buffer)
    assert receive(RULE, buffer, Trained(5, "a")) == (buffer, Repeated())
    assert receive(RULE, buffer, Trained(6, "a"))[1] == Kept(1.0)


@given(st.lists(st.tuples(st.integers(0, 12), st.sampled_from("abcd")), max_size=60), st.randoms())
def test_each_update_goes_into_one_version_and_the_state_stays_small(arrivals: list, random: Random) -> None:
    buffer, counted = Buffer(0), []
    for version, device in arrivals:
        buffer, verdict = receive(RULE, buffer, Trained(version, device))
        if isinstance(verdict, Kept):
            counted.append((version, device))
        if is_due(RULE, buffer) or random.random() < 0.3:
            buffer = released(RULE, buffer)
        assert all(buffer.version - trained.version <= RULE.most_stale for trained in buffer.spent)
    assert len(counted) == len(set(counted))


def test_a_buffer_of_stale_updates_moves_the_model_less_as_in_the_paper() -> None:
    """(1/K) sum of s(staleness) D, with K = 2: (1 x 8 + 1/2 x 4) / 2 = 5 and not (8 + 2) / 1.5."""
    layout = Layout((Parameter("w", (1,)),))
    buffer = Buffer(5, kept=frozenset({Trained(2, "a"), Trained(5, "b")}))
    values = {"a": 4.0, "b": 8.0}
    contributions = [
        Contribution(SubModel({}), {"w": np.array([values[trained.device]], np.float32)}, 1, scale)
        for trained, scale in in_order(RULE, buffer)
    ]
    assert WeightedMean(layout).aggregate(contributions).difference["w"].tolist() == [5.0]


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"goal": 0}, "goal must be at least 1, got 0"),
        ({"most_stale": -1}, "most_stale must be at least 0, got -1"),
        ({"exponent": -0.5}, "exponent must be at least 0 and finite, got -0.5"),
        ({"exponent": float("inf")}, "exponent must be at least 0 and finite, got inf"),
    ],
)
def test_a_mistake_names_field_value_and_range(fields: dict, text: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        BufferRule(**({"goal": 1, "most_stale": 1} | fields))
    assert str(caught.value) == text
