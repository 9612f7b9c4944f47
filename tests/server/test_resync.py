from collections.abc import Callable

import numpy as np

from server.resync import encode_model, encode_slice
from wire_protocol import messages, tensor_codec
from wire_protocol.messages import RoundPlan, Slice
from wire_protocol.sub_model import SubModel, sub_shapes


def test_the_whole_model_decodes_to_itself(layout: object, weights: dict) -> None:
    shapes = {name: array.shape for name, array in weights.items()}
    for precision in ("float32", "float16"):
        decoded = tensor_codec.decode(encode_model(layout, weights, precision), shapes, precision)
        for name, array in weights.items():
            np.testing.assert_array_equal(decoded[name], array)


def test_a_slice_holds_just_the_kept_neurons(
    layout: object, weights: dict, make_plan: Callable[..., RoundPlan], keeping: Callable[..., SubModel]
) -> None:
    plan, kept = make_plan(), keeping(1, 3)
    message = messages.decode(encode_slice(layout, weights, kept, plan), Slice)
    assert (message.run, message.round, message.model_version) == (plan.run, plan.round, plan.model_version)
    values = tensor_codec.decode(message.values, sub_shapes(layout, kept.widths), message.precision)
    np.testing.assert_array_equal(values["w1"], weights["w1"][[1, 3]])
    np.testing.assert_array_equal(values["b1"], weights["b1"][[1, 3]])
    np.testing.assert_array_equal(values["w2"], weights["w2"][:, [1, 3]])
    np.testing.assert_array_equal(values["b2"], weights["b2"])
