from collections.abc import Callable

import numpy as np

from server.resync import encode_model, encode_slice
from wire_protocol import messages, tensor_codec
from wire_protocol.messages import RoundPlan, Slice
from wire_protocol.sub_model import SubModel, sub_shapes


def test_the_whole_model_decodes_to_itself(layout: object, weights: dict) -> None:
    shapes = {name: array.shape for name, array in weights.items()}
    for precision, error in (("float32", 0), ("float16", 0), ("int8", 0.01), ("int4", 0.1)):
        decoded = tensor_codec.decode(encode_model(layout, weights, precision), shapes, tensor_codec.Codec(precision))
        for name, array in weights.items():
            np.testing.assert_allclose(decoded[name], array, rtol=0, atol=error * np.abs(array).max())


def test_a_slice_holds_just_the_kept_neurons(
    layout: object, weights: dict, make_plan: Callable[..., RoundPlan], keeping: Callable[..., SubModel]
) -> None:
    plan, kept = make_plan(), keeping(1, 3)
    message = messages.decode(encode_slice(layout, weights, kept, plan), Slice)
    assert (message.run, message.round, message.model_version) == (plan.run, plan.round, plan.model_version)
    values = tensor_codec.decode(message.values, sub_shapes(layout, kept.widths), tensor_codec.Codec(message.precision))
    np.testing.assert_array_equal(values["w1"], weights["w1"][[1, 3]])
    np.testing.assert_array_equal(values["b1"], weights["b1"][[1, 3]])
    np.testing.assert_array_equal(values["w2"], weights["w2"][:, [1, 3]])
    np.testing.assert_array_equal(values["b2"], weights["b2"])
