import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.error_feedback import Sent, feeds_back, no_residual, residual_after, with_residual
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import RoundPlan
from wire_protocol.privacy import DevicePrivacy
from wire_protocol.sub_model import SubModel, gather, sub_shapes
from wire_protocol.tensor_codec import Codec, decode, encode

LAYOUT = Layout(
    (Parameter("w", (4, 2), (CutAxis(0, "g", produces=True),)), Parameter("b", (3,))),
    (NeuronGroup("g", 4),),
)
KEPT = SubModel({"g": np.array([1, 3])})


def plan(**changes: object) -> RoundPlan:
    return RoundPlan(**{
        "run": "r", "round": 1, "resync_round": 1, "model_version": 0, "bundle": "b" * 64, "model": "a" * 64,
        "deadline": 0.0, "local_steps": 1, "batch_size": 1, "learning_rate": 0.1, "keep": 0.5, **changes,
    })  # fmt: skip


PRIVATE = {"privacy": DevicePrivacy(1.0, 2.0), "selection": "random"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, False),
        ({"top_k": 0.5}, True),
        ({"top_k": 0.5, **PRIVATE}, False),
        ({"precision": "int4"}, False),
    ],
)
def test_values_left_out_are_fed_back_unless_the_run_is_private(changes: dict, expected: bool) -> None:
    assert feeds_back(plan(**changes)) is expected


def test_a_residual_worked_out_by_hand() -> None:
    before = {"w": np.arange(8, dtype=np.float32).reshape(4, 2), "b": np.ones(3, np.float32)}
    change = {"w": np.array([[10, 10], [20, 20]], np.float32), "b": np.zeros(3, np.float32)}
    wanted = with_residual(LAYOUT, KEPT, before, change)
    assert wanted["w"].tolist() == [[12, 13], [26, 27]]
    assert wanted["b"].tolist() == [1, 1, 1]
    decoded = {"w": np.array([[0, 13], [26, 0]], np.float32), "b": np.array([0, 0, 2], np.float32)}
    after = residual_after(LAYOUT, KEPT, before, Sent(wanted, decoded))
    assert after["w"].tolist() == [[0, 1], [12, 0], [4, 5], [0, 27]]
    assert after["b"].tolist() == [1, 1, -1]
    assert before["w"].tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]


@given(
    seed=st.integers(0, 99), keep=st.sampled_from([0.1, 0.3]), precision=st.sampled_from(["float32", "int4", "ternary"])
)
def test_in_time_all_that_was_trained_is_sent(seed: int, keep: float, precision: str) -> None:
    """What was decoded so far and the residual add up to all changes; the residual does not grow with the rounds."""
    generator, codec = np.random.default_rng(seed), Codec(precision, keep)
    shapes, residual = sub_shapes(LAYOUT, KEPT.widths), no_residual(LAYOUT)
    drift = {name: generator.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    arrived = {name: np.zeros(shape) for name, shape in shapes.items()}
    rounds = 60
    for _ in range(rounds):
        wanted = with_residual(LAYOUT, KEPT, residual, drift)
        decoded = decode(encode(wanted, shapes, codec), shapes, codec)
        residual = residual_after(LAYOUT, KEPT, residual, Sent(wanted, decoded))
        for name, array in decoded.items():
            arrived[name] += array
    left = gather(LAYOUT, KEPT, residual)
    largest = max(float(np.abs(array).max()) for array in drift.values())
    for name, array in drift.items():
        np.testing.assert_allclose(arrived[name] + left[name], rounds * array, rtol=1e-4, atol=1e-3)
        assert np.abs(left[name]).max() <= 25 * largest
