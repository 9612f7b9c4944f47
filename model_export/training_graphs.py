"""The graphs a device and a server run, assembled from a forward graph. DESIGN: one graph serves every width.

All take `batch` float32 (examples, ...), `targets` (int64 labels (examples,) or float32 of the output's shape, as the
loss says), `example_weights` float32 (examples,) where 0
marks padding, and every parameter by name, with symbolic sizes along the axes that a neuron group cuts. No graph
depends on a width or on the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.reverse import differentiate
from model_export.autodiff.tap_rows import split_convolutions
from model_export.errors import ExportError
from model_export.every_width import fit_every_width
from model_export.fast_forms import use_fast_forms
from model_export.forward_graph import BATCH_AXIS, ForwardGraph, make_model
from model_export.graph_passes import simplify
from model_export.losses import CROSS_ENTROPY, Loss
from model_export.losses.loss import EXAMPLE_WEIGHTS, TARGETS, mean_scale, scaled, total_weight, weighted_sum
from model_export.normal_form import static_shapes
from model_export.private_graph import CLIP_NORM, ExamplePass, clip_factors
from model_export.torch_trace import INPUT, OPSET, OUTPUT
from wire_protocol.layout import Layout, Parameter

SAMPLE_BATCH = 251
"""A batch size unlike any other size; shape inference makes tensors of it, so it is not `ANY_BATCH`."""


def train_step(graph: ForwardGraph, layout: Layout, loss: Loss = CROSS_ENTROPY) -> ModelProto:
    """`loss` (weighted mean, scalar) and `grad.<parameter>` for every parameter, in layout order."""
    g, nodes = _start(graph)
    batch = scaled(g, loss, graph.output_shape, mean_scale(g))
    names = [parameter.name for parameter in layout.parameters]
    gradients = differentiate(g, nodes, graph.shapes, {OUTPUT: batch.output_gradient}, names)
    untouched = [name for name in names if name not in gradients]
    if untouched:
        listed = ", ".join(untouched)
        raise ExportError(f"no gradient reaches the parameters {listed}: freeze them by requires_grad_(False)")
    outputs = [_output(g, batch.loss, "loss", [])]
    outputs += [_output(g, gradients[p.name], f"grad.{p.name}", _dimensions(p)) for p in layout.parameters]
    return _finish(_Frame(graph, layout, loss, "train_step"), g, outputs)


def private_step(graph: ForwardGraph, layout: Layout, loss: Loss = CROSS_ENTROPY) -> ModelProto:
    """`loss` (weighted mean), `grad.<parameter>` (sums of clipped gradients), `norms` (examples,) before clipping.

    Takes `clip_norm` too, a float32 scalar above 0: the bound on the L2 norm of each example's whole gradient.
    """
    g, nodes = _start(graph)
    batch = scaled(g, loss, graph.output_shape, EXAMPLE_WEIGHTS)
    examples = ExamplePass(g, replace(graph, nodes=tuple(nodes)), layout, batch.output_gradient)
    norms = examples.norms()
    sums = examples.clipped_sums(clip_factors(g, norms))
    mean = g.op("Div", batch.loss, total_weight(g))
    outputs = [_output(g, mean, "loss", []), _output(g, norms, "norms", [BATCH_AXIS])]
    outputs += [_output(g, sums[p.name], f"grad.{p.name}", _dimensions(p)) for p in layout.parameters]
    return _finish(_Frame(graph, layout, loss, "private_step"), g, outputs, [_clip_norm()])


def fisher(graph: ForwardGraph, layout: Layout, loss: Loss = CROSS_ENTROPY) -> ModelProto:
    """`fisher.<group>` float32 (width,): sums over examples of squared gradients, clipped to `clip_norm`."""
    g, nodes = _start(graph)
    batch = scaled(g, loss, graph.output_shape, EXAMPLE_WEIGHTS)
    examples = ExamplePass(g, replace(graph, nodes=tuple(nodes)), layout, batch.output_gradient)
    scores = examples.scores(clip_factors(g, examples.norms()))
    outputs = [_output(g, score, f"fisher.{group}", [group]) for group, score in scores.items()]
    return _finish(_Frame(graph, layout, loss, "fisher"), g, outputs, [_clip_norm()])


def evaluate(graph: ForwardGraph, layout: Layout, loss: Loss = CROSS_ENTROPY) -> ModelProto:
    """`loss_sum`, `weight_sum` and the loss's metrics, scalars, each weighted by example weight.

    `correct_sum` of classification is what accuracy follows from, `absolute_error_sum` of regression the mean absolute
    error.
    """
    g, _ = _start(graph)
    sums = {
        "loss_sum": scaled(g, loss, graph.output_shape, EXAMPLE_WEIGHTS).loss,
        "weight_sum": g.op("ReduceSum", EXAMPLE_WEIGHTS, keepdims=0),
    }
    for name, values in loss.metrics(g, graph.output_shape).items():
        sums[name] = weighted_sum(g, values, EXAMPLE_WEIGHTS)
    outputs = [_output(g, name, output, []) for output, name in sums.items()]
    return _finish(_Frame(graph, layout, loss, "evaluate"), g, outputs)


def _start(graph: ForwardGraph) -> tuple[GraphBuilder, list[NodeProto]]:
    g, nodes = GraphBuilder(), []
    for node in graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        nodes.append(copy)
    fit_every_width(g, nodes, graph.shapes)
    split_convolutions(g, graph.shapes)
    return g, nodes


def _output(g: GraphBuilder, name: str, output: str, dimensions: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(g.rename(name, output), TensorProto.FLOAT, dimensions)


def _clip_norm() -> ValueInfoProto:
    return helper.make_tensor_value_info(CLIP_NORM, TensorProto.FLOAT, [])


def _dimensions(parameter: Parameter) -> list[int | str]:
    dimensions: list[int | str] = list(parameter.shape)
    for cut in parameter.cuts:
        dimensions[cut.axis] = cut.group if cut.entries == 1 else f"{cut.group}*{cut.entries}"
    return dimensions


@dataclass(frozen=True)
class _Frame:
    """What a graph's name, inputs and constants follow from."""

    graph: ForwardGraph
    layout: Layout
    loss: Loss
    name: str


def _finish(
    frame: _Frame, g: GraphBuilder, outputs: list[ValueInfoProto], settings: Sequence[ValueInfoProto] = ()
) -> ModelProto:
    graph, loss = frame.graph, frame.loss
    names = [output.name for output in outputs]
    g.keep_only(names)
    use_fast_forms(g)
    target_shape = loss.target_shape(graph.output_shape)
    inputs = [
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH_AXIS, *graph.input_shape]),
        helper.make_tensor_value_info(TARGETS, loss.targets_type, [BATCH_AXIS, *target_shape]),
        helper.make_tensor_value_info(EXAMPLE_WEIGHTS, TensorProto.FLOAT, [BATCH_AXIS]),
        *settings,
        *(helper.make_tensor_value_info(p.name, TensorProto.FLOAT, _dimensions(p)) for p in frame.layout.parameters),
    ]
    simplify(g, _static_shapes(frame, g, inputs, outputs), names)
    return make_model(helper.make_graph(g.nodes, frame.name, inputs, outputs, _constants(graph, g)))


def _constants(graph: ForwardGraph, g: GraphBuilder) -> list[TensorProto]:
    used = {name for node in g.nodes for name in node.input}
    own = [numpy_helper.from_array(array, name) for name, array in graph.constants.items() if name in used]
    return [*own, *g.initializers()]


def _static_shapes(
    frame: _Frame, g: GraphBuilder, inputs: list[ValueInfoProto], outputs: list[ValueInfoProto]
) -> dict[str, tuple[int, ...]]:
    """Of all tensors whose shape can be inferred, for the full width and `SAMPLE_BATCH` examples."""
    sizes = {parameter.name: list(parameter.shape) for parameter in frame.layout.parameters}
    fixed = []
    for value in inputs:
        dims = [dim.dim_value or SAMPLE_BATCH for dim in value.type.tensor_type.shape.dim]
        dims = sizes.get(value.name, dims)
        fixed.append(helper.make_tensor_value_info(value.name, value.type.tensor_type.elem_type, dims))
    free = [helper.make_tensor_value_info(value.name, TensorProto.FLOAT, None) for value in outputs]
    static = helper.make_graph(g.nodes, frame.name, fixed, free, _constants(frame.graph, g))
    found = static_shapes(helper.make_model(static, opset_imports=[helper.make_opsetid("", OPSET)]))
    return {name: shape for name, shape in found.items() if 0 not in shape}
