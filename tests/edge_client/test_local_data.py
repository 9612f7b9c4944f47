import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.local_data import batches, in_order
from wire_protocol.errors import InvalidValueError
from wire_protocol.examples import Examples


def numbered(count: int) -> Examples:
    return Examples(np.arange(count, dtype=np.float32).reshape(count, 1), np.arange(count))


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50), steps=st.integers(1, 30), seed=st.integers(0, 99))
def test_as_many_batches_as_asked_each_of_distinct_examples_with_their_own_labels(count, batch_size, steps, seed):
    drawn = list(batches(numbered(count), batch_size, steps, np.random.default_rng(seed)))
    assert len(drawn) == steps
    for batch in drawn:
        assert len(batch) == len(set(batch.y.tolist())) == min(batch_size, count)
        np.testing.assert_array_equal(batch.x[:, 0], batch.y)


def test_an_epoch_takes_every_example_once_and_the_next_is_shuffled_afresh():
    drawn = [batch.y.tolist() for batch in batches(numbered(12), 4, 6, np.random.default_rng(0))]
    first, second = drawn[0] + drawn[1] + drawn[2], drawn[3] + drawn[4] + drawn[5]
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second


def test_a_batch_as_large_as_the_data_is_the_data_in_order():
    examples = numbered(5)
    for batch in batches(examples, 5, 3, np.random.default_rng(0)):
        assert batch is examples


def test_the_same_generator_gives_the_same_batches_and_another_gives_others():
    def drawn(seed: int) -> list[list[int]]:
        return [batch.y.tolist() for batch in batches(numbered(50), 8, 4, np.random.default_rng(seed))]

    assert drawn(1) == drawn(1) != drawn(2)


@pytest.mark.parametrize(("field", "arguments"), [("batch_size", (0, 1)), ("steps", (1, 0))])
def test_an_empty_batch_or_no_step_is_refused_at_once(field, arguments):
    with pytest.raises(InvalidValueError, match=f"{field} must be at least 1, got 0"):
        batches(numbered(3), *arguments, np.random.default_rng(0))


@given(count=st.integers(1, 40), batch_size=st.integers(1, 50))
def test_in_order_gives_every_example_once_in_order(count, batch_size):
    found = list(in_order(numbered(count), batch_size))
    assert np.concatenate([batch.y for batch in found]).tolist() == list(range(count))
    assert max(len(batch) for batch in found) == min(batch_size, count)
