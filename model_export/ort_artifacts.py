"""onnxruntime-training artifacts of a sub-model: the graphs that `onnxruntime.training.api` trains, one folder a width.

A rung holds `training_model.onnx` (loss, gradients, gradient accumulation), `eval_model.onnx` (loss),
`optimizer_model.onnx` (plain SGD whose learning rate is set at run time) and `checkpoint`. The graphs take `batch`,
`targets` (int64 [n] or float32 of the output's shape, as the loss says) and `example_weights` float32 [n], and give
`loss` = sum(w_i l_i) / sum(w_i), l_i the loss of example i, written as in the portable graphs.

Invariants: the checkpoint is nominal, it names the parameters and holds no values, and the training graph takes them in
layout order, so a rung of a LeNet is 15 KB and who trains it must first copy one flat buffer of parameters in that
order; every shape is inferred afresh for the rung's widths, because shapes of another width crash onnxruntime;
equal inputs give equal bytes. Needs onnxruntime-training 1.19.2, the last release.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from model_export.autodiff.builder import GraphBuilder
from model_export.errors import ExportError
from model_export.forward_graph import IR_VERSION
from model_export.losses import CROSS_ENTROPY, Loss
from model_export.losses.loss import EXAMPLE_WEIGHTS, TARGETS, total_weight, weighted_sum
from model_export.torch_trace import INPUT, OPSET
from wire_protocol.bundle_manifest import CHECKPOINT, EVAL_MODEL, OPTIMIZER_MODEL, TRAINING_MODEL
from wire_protocol.layout import Layout
from wire_protocol.sub_model import sub_shapes

LOSS = "loss"

_ERRORS_ONLY = 3
"""onnxruntime's severity 3 (error): the gradient builder otherwise writes its progress to standard error."""


def is_available() -> bool:
    """Whether this environment has onnxruntime-training, and so can write rungs."""
    try:
        _training_library()
    except ExportError:
        return False
    return True


def write_rung(
    forward: ModelProto, layout: Layout, widths: Mapping[str, int], folder: Path, loss: Loss = CROSS_ENTROPY
) -> None:
    """Write the artifacts for sub-models of these widths (neurons a group) into `folder`, which is made if missing.

    `forward` has one input `batch` float32 [symbolic, ...], one output `output` [symbolic, ...] that `loss` takes, and
    all parameters of `layout` as initializers; no literal in it may depend on a width. Raises `ExportError` where
    onnxruntime-training is not installed or cannot differentiate the graph.
    """
    block = _training_library()
    shapes = sub_shapes(layout, widths)
    evaluation = _with_loss(forward, shapes, loss)
    training = _differentiate(evaluation, list(shapes))
    nominal = [numpy_helper.from_array(np.zeros(shape, dtype=np.float32), name) for name, shape in shapes.items()]
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(training, folder / TRAINING_MODEL)
    onnx.save(evaluation, folder / EVAL_MODEL)
    onnx.save(_sgd(), folder / OPTIMIZER_MODEL)
    block.save_checkpoint((nominal, []), folder / CHECKPOINT, nominal_checkpoint=True)


def _training_library() -> ModuleType:
    try:
        return importlib.import_module("onnxruntime.training.onnxblock")
    except ImportError as error:
        raise ExportError(
            "writing onnxruntime-training artifacts needs onnxruntime-training-cpu 1.19.2 (Linux x86_64, macOS or "
            f"Windows, Python up to 3.12); export without them here: {error}"
        ) from error


def _with_loss(forward: ModelProto, shapes: Mapping[str, tuple[int, ...]], loss: Loss) -> ModelProto:
    """`forward` with parameters of these shapes as inputs, and the weighted mean loss as its output."""
    batch = next(value for value in forward.graph.input if value.name == INPUT)
    examples = batch.type.tensor_type.shape.dim[0].dim_param
    output_shape = tuple(dim.dim_value for dim in forward.graph.output[0].type.tensor_type.shape.dim)[1:]
    g = _mean_loss(loss, output_shape)
    graph = helper.make_graph(
        [*_with_fitting_groups(forward.graph, shapes), *g.nodes],
        "loss",
        [
            batch,
            helper.make_tensor_value_info(TARGETS, loss.targets_type, [examples, *loss.target_shape(output_shape)]),
            helper.make_tensor_value_info(EXAMPLE_WEIGHTS, TensorProto.FLOAT, [examples]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()),
        ],
        [helper.make_tensor_value_info(LOSS, TensorProto.FLOAT, [])],
        [*(tensor for tensor in forward.graph.initializer if tensor.name not in shapes), *g.initializers()],
    )
    model = _make_model(graph, [helper.make_opsetid("", OPSET)])
    try:
        return onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise ExportError(f"the forward graph does not fit parameters of shapes {dict(shapes)}: {error}") from error


def _with_fitting_groups(forward: GraphProto, shapes: Mapping[str, tuple[int, ...]]) -> list[NodeProto]:
    """The nodes; where channels are convolved each by itself, with as many groups as there are channels left."""
    full = {tensor.name: tuple(tensor.dims) for tensor in forward.initializer}
    nodes = []
    for node in forward.node:
        fitting = NodeProto()
        fitting.CopyFrom(node)
        weight = node.input[1] if node.op_type == "Conv" else ""
        if weight in shapes and full[weight][1] == 1:
            for attribute in fitting.attribute:
                if attribute.name == "group" and attribute.i > 1:
                    attribute.i = attribute.i * shapes[weight][0] // full[weight][0]
        nodes.append(fitting)
    return nodes


def _mean_loss(loss: Loss, output_shape: tuple[int, ...]) -> GraphBuilder:
    g = GraphBuilder(f"{LOSS}.")
    each = loss.terms(g, output_shape).each
    g.rename(g.op("Div", weighted_sum(g, each, EXAMPLE_WEIGHTS), total_weight(g)), LOSS)
    g.keep_only([LOSS])
    return g


def _differentiate(model: ModelProto, parameters: list[str]) -> ModelProto:
    """Add the gradients of the loss, and their accumulation as onnxruntime's optimizer expects it."""
    native = importlib.import_module("onnxruntime.capi._pybind_state")
    accumulation = importlib.import_module("onnxruntime.training.onnxblock._training_graph_utils")
    options = native.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    try:
        builder = native.GradientGraphBuilder(model.SerializeToString(), {LOSS}, set(parameters), LOSS, options)
        builder.build()
    except RuntimeError as error:
        raise ExportError(f"onnxruntime-training cannot differentiate the model: {error}") from error
    training = onnx.load_model_from_string(builder.get_model())
    outputs: dict[str, ValueInfoProto] = {value.name: value for value in training.graph.output}
    ordered = [outputs[LOSS], *(outputs[f"{name}_grad"] for name in parameters)]
    del training.graph.output[:]
    training.graph.output.extend(ordered)
    accumulation.build_gradient_accumulation_graph(training, set(parameters))
    training.ir_version = IR_VERSION
    return training


def _sgd() -> ModelProto:
    """Parameters -= learning_rate x gradients, in place; the unused inputs are those that onnxruntime passes."""
    value, sequence = helper.make_tensor_value_info, helper.make_tensor_sequence_value_info
    inputs = ["learning_rate", "params", "gradients"]
    graph = helper.make_graph(
        [helper.make_node("SGDOptimizerV2", inputs, ["updated"], domain="com.microsoft")],
        "sgd",
        [
            value("learning_rate", TensorProto.FLOAT, [1]),
            value("step", TensorProto.INT64, [1]),
            *(sequence(name, TensorProto.FLOAT, None) for name in ("params", "gradients", "first_order_moments")),
        ],
        [value("updated", TensorProto.BOOL, [1])],
    )
    return _make_model(graph, [helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)])


def _make_model(graph: GraphProto, opsets: list[onnx.OperatorSetIdProto]) -> ModelProto:
    return helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fisherfleet")
