import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.neuron_scores import (
    decode_ranking,
    decode_scores,
    encode_ranking,
    encode_scores,
    rank,
    scores_size,
)

LAYOUT = Layout(
    (Parameter("w", (3, 2), (CutAxis(0, "a", produces=True), CutAxis(1, "b"))),),
    (NeuronGroup("a", 3), NeuronGroup("b", 2)),
)
SCORES = {"a": np.array([0.5, 2, 2], np.float32), "b": np.array([1e-9, 0], np.float32)}


def test_scores_travel_with_the_precision_of_a_half_and_the_range_of_a_float():
    encoded = encode_scores(LAYOUT, SCORES)
    assert len(encoded) == scores_size(LAYOUT)
    found = decode_scores(LAYOUT, encoded)
    assert list(found) == ["a", "b"]
    for group, values in SCORES.items():
        np.testing.assert_allclose(found[group], values, rtol=1e-3)


def test_neurons_are_ranked_by_score_and_among_equals_by_index():
    ranking = rank(SCORES)
    assert {group: order.tolist() for group, order in ranking.items()} == {"a": [1, 2, 0], "b": [0, 1]}
    encoded = encode_ranking(ranking)
    assert encoded == {"a": bytes([1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]), "b": bytes([0, 0, 0, 0, 1, 0, 0, 0])}
    decoded = decode_ranking(LAYOUT, encoded)
    assert {group: order.tolist() for group, order in decoded.items()} == {"a": [1, 2, 0], "b": [0, 1]}
    assert decode_ranking(LAYOUT, {**encoded, "a": encoded["a"][:8]})["a"].tolist() == [1, 2]


@given(st.binary(max_size=64))
def test_any_bytes_are_scores_or_a_protocol_error(encoded):
    try:
        found = decode_scores(LAYOUT, encoded)
    except ProtocolError:
        return
    assert all(values.min() >= 0 and np.isfinite(values).all() for values in found.values())


def test_a_negative_score_is_refused_and_one_that_is_not_finite_is_not_sent():
    negative = encode_scores(LAYOUT, {**SCORES, "b": np.array([0, -1], np.float32)})
    with pytest.raises(ProtocolError, match="scores of b must be at least 0, got -1"):
        decode_scores(LAYOUT, negative)
    with pytest.raises(InvalidValueError):
        encode_scores(LAYOUT, {**SCORES, "b": np.array([0, np.inf], np.float32)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"a": b""}, "ranking of a has 0 bytes, expected 4 for each of 1 to 3 neurons"),
        ({"a": bytes(6)}, "ranking of a has 6 bytes, expected 4 for each of 1 to 3 neurons"),
        ({"a": bytes(16)}, "ranking of a has 16 bytes, expected 4 for each of 1 to 3 neurons"),
        ({"a": bytes(8)}, "ranking of a must name neurons from 0 to 2, each at most once"),
        ({"b": b"\x00\x00\x00\x00\x02\x00\x00\x00"}, "ranking of b must name neurons from 0 to 1"),
        ({"c": b""}, "names groups"),
    ],
)
def test_a_ranking_is_read_strictly(changes, message):
    with pytest.raises(ProtocolError, match=message):
        decode_ranking(LAYOUT, {**encode_ranking(rank(SCORES)), **changes})
