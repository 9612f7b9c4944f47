"""The model that a run begins with."""

import numpy as np
import pytest

from server.config import RunConfig
from server.initial_model import initial_model
from wire_protocol.errors import InvalidValueError
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter

LAYOUT = Layout(
    (
        Parameter("first", (2, 3), (CutAxis(0, "a", produces=True),)),
        Parameter("reader", (4, 2), (CutAxis(1, "a", produces=False),)),
        Parameter("bias", (4,)),
    ),
    (NeuronGroup("a", 2),),
)


def test_weights_that_read_hidden_neurons_are_larger_and_no_others() -> None:
    weights = {parameter.name: np.ones(parameter.shape, np.float32) for parameter in LAYOUT.parameters}
    found = initial_model(LAYOUT, weights, 1.5)
    assert {name: array[0].max() for name, array in found.items() if name != "bias"} == {"first": 1, "reader": 1.5}
    assert found["bias"].tolist() == [1] * 4
    assert {array.dtype for array in found.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_scale_out_of_range_is_refused_by_name(scale: float) -> None:
    with pytest.raises(InvalidValueError, match="initial_scale must be above 0 and finite, got"):
        RunConfig(initial_scale=scale)
