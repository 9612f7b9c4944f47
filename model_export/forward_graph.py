"""A torch module as a normalised ONNX forward graph.

Normalised means: input `batch`, output `output`, trainable parameters as initializers under their torch names, all
other constants folded, static shapes known for every tensor, no literal of the batch size, and only operators that the
gradient compiler knows. A flatten is always `Flatten(axis=1)`; every other reshape keeps the batch axis first.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper, numpy_helper
from torch import nn

from model_export.autodiff.support import require_exported
from model_export.batch_axis import ANY_BATCH, shown, with_any_batch
from model_export.convolution_padding import fuse_padding, with_explicit_padding
from model_export.errors import ExportError
from model_export.normal_form import (
    fold_all_constants,
    fuse_transposed_weights,
    normalise_reshape,
    static_shapes,
    with_constants,
)
from model_export.normalisation import find_normalisations, plain_nodes
from model_export.part_selection import with_selected_parts
from model_export.plain_operators import with_matrices, with_plain_operators
from model_export.torch_trace import INPUT, OPSET, OUTPUT, torch_export

_logger = logging.getLogger(__name__)

IR_VERSION = 8
BATCH_AXIS = "examples"


@dataclass(frozen=True)
class ForwardGraph:
    """Nodes in topological order; `parameters` float32 by torch name; `constants` of any type.

    Nodes are of `OPSET` but for those that `plain_nodes` spells.
    `shapes` has the static shape of every tensor, with `ANY_BATCH` along a batch axis. `input_shape` and
    `output_shape` are without that axis.
    """

    nodes: tuple[NodeProto, ...]
    parameters: dict[str, NDArray[np.float32]]
    constants: dict[str, NDArray[np.generic]]
    shapes: dict[str, tuple[int, ...]]
    input_shape: tuple[int, ...]
    output_shape: tuple[int, ...]

    def to_model(self, parameters: dict[str, NDArray[np.float32]] | None = None) -> ModelProto:
        """An inference model with these parameters (default: the initial ones) as initializers."""
        arrays = {**self.constants, **(self.parameters if parameters is None else parameters)}
        graph = helper.make_graph(
            plain_nodes(self.nodes, self.shapes),
            "forward",
            [helper.make_tensor_value_info(INPUT, onnx.TensorProto.FLOAT, [BATCH_AXIS, *self.input_shape])],
            [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, [BATCH_AXIS, *self.output_shape])],
            [numpy_helper.from_array(array, name) for name, array in arrays.items()],
        )
        return make_model(graph)


def make_model(graph: onnx.GraphProto) -> ModelProto:
    """A checked model of the opset and IR version that every supported runtime reads."""
    model = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fisherfleet",
    )
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as error:
        reason = " ".join(str(error).split())
        raise ExportError(
            f"the graph is not valid (has a parameter the name of an input or output?): {reason}"
        ) from error
    return model


def trace(module: nn.Module, input_shape: tuple[int, ...]) -> ForwardGraph:
    """Export `module` for one float32 input of shape (batch, *input_shape) and one output (batch, ...).

    Raises `ExportError` when torch cannot trace it or its output has no batch axis.
    """
    taken = sorted({INPUT, OUTPUT} & dict(module.named_parameters()).keys())
    if taken:
        raise ExportError(f"no parameter may be called {' or '.join(taken)}: the graphs' own tensors are called so")
    trainable = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    model = _exported(module, input_shape, trainable)
    initializers = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    nodes, constants = _folded(model, initializers, trainable)
    shapes = static_shapes(with_constants(model, nodes, {**initializers, **constants}))
    nodes = with_selected_parts(nodes, constants, shapes, (INPUT, OUTPUT))
    shapes = static_shapes(with_constants(model, nodes, {**initializers, **constants}))
    output_shape = shapes.get(OUTPUT, ())
    if output_shape[:1] != (ANY_BATCH,) or 0 in output_shape:
        require_exported(nodes, {INPUT, *trainable})
        raise ExportError(f"the model's output must have the batch as its first axis, got {shown(output_shape)}")
    nodes = [normalise_reshape(node, constants, shapes) for node in fuse_transposed_weights(nodes, shapes)]
    nodes = fuse_padding(with_explicit_padding(nodes, shapes), constants)
    nodes = find_normalisations(nodes, constants, shapes, OUTPUT)
    used = {name for node in nodes for name in node.input}
    parameters = {
        name: initializers[name].astype(np.float32, copy=False)
        for name, _ in module.named_parameters()
        if name in trainable & used & set(initializers)
    }
    if not parameters:
        raise ExportError("the model has no trainable parameter that its output depends on")
    read = used - parameters.keys()
    others = {name: array for name, array in {**initializers, **constants}.items() if name in read}
    shapes |= {name: array.shape for name, array in others.items()}
    return ForwardGraph(tuple(nodes), parameters, others, shapes, tuple(input_shape), output_shape[1:])


def _folded(
    model: ModelProto, initializers: dict[str, NDArray[np.generic]], trainable: set[str]
) -> tuple[list[NodeProto], dict[str, NDArray[np.generic]]]:
    """Nodes in plain operators, and all constants: twice folded, as some operators have no known shape before."""
    nodes, constants = fold_all_constants(model, initializers, trainable, OUTPUT)
    nodes = with_plain_operators(nodes, {**initializers, **constants})
    model = with_constants(model, nodes, {**initializers, **constants})
    nodes = with_matrices(nodes, static_shapes(model))
    model = with_constants(model, nodes, {**initializers, **constants})
    nodes, folded = fold_all_constants(model, {**initializers, **constants}, trainable, OUTPUT)
    given = {name: array for name, array in initializers.items() if name not in trainable}
    return nodes, {**constants, **folded, **given}


def _exported(module: nn.Module, input_shape: tuple[int, ...], trainable: set[str]) -> ModelProto:
    """As torch exports it; where something stands in the way, all operators without a rule are named first."""
    models, messages = torch_export(module, input_shape)
    for message in messages:
        _logger.warning("%s", message)
    nodes = list(models[0].graph.node)
    if any(node.domain or node.op_type == "BatchNormalization" for node in nodes):
        require_exported(nodes, {INPUT, *trainable})
    try:
        return with_any_batch(*models)
    except ExportError:
        require_exported(nodes, {INPUT, *trainable})
        raise
