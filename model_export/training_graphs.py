"""The graphs a device and a server run, assembled from a forward graph. DESIGN: one graph serves every width.

All take `batch` float32 (examples, ...), `targets` int64 (examples,), `example_weights` float32 (examples,) where 0
marks padding, and every parameter by name, with symbolic sizes along the axes that a neuron group cuts. No graph
depends on a width or on the batch size.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.reverse import differentiate
from model_export.cross_entropy import EXAMPLE_WEIGHTS, TARGETS, cross_entropy, mean_scale, total_weight
from model_export.forward_graph import BATCH_AXIS, INPUT, OUTPUT, ForwardGraph, make_model
from model_export.private_graph import CLIP_NORM, ExamplePass, clip_factors
from wire_protocol.layout import Layout, Parameter


def train_step(graph: ForwardGraph, layout: Layout) -> ModelProto:
    """`loss` (weighted mean, scalar) and `grad.<parameter>` for every parameter, in layout order."""
    g, nodes = _start(graph)
    loss = cross_entropy(g, graph.classes, mean_scale(g))
    names = [parameter.name for parameter in layout.parameters]
    gradients = differentiate(g, nodes, graph.shapes, {OUTPUT: loss.logits_gradient}, names)
    outputs = [_output(g, loss.loss, "loss", [])]
    outputs += [_output(g, gradients[p.name], f"grad.{p.name}", _dimensions(p)) for p in layout.parameters]
    return _finish(g, graph, layout, "train_step", outputs)


def private_step(graph: ForwardGraph, layout: Layout) -> ModelProto:
    """`loss` (weighted mean), `grad.<parameter>` (sums of clipped gradients), `norms` (examples,) before clipping.

    Takes `clip_norm` too, a float32 scalar above 0: the bound on the L2 norm of each example's whole gradient.
    """
    g, nodes = _start(graph)
    loss = cross_entropy(g, graph.classes, EXAMPLE_WEIGHTS)
    examples = ExamplePass(g, nodes, graph.shapes, layout, loss.logits_gradient)
    norms = examples.norms()
    sums = examples.clipped_sums(clip_factors(g, norms))
    mean = g.op("Div", loss.loss, total_weight(g))
    outputs = [_output(g, mean, "loss", []), _output(g, norms, "norms", [BATCH_AXIS])]
    outputs += [_output(g, sums[p.name], f"grad.{p.name}", _dimensions(p)) for p in layout.parameters]
    return _finish(g, graph, layout, "private_step", outputs, [_clip_norm()])


def fisher(graph: ForwardGraph, layout: Layout) -> ModelProto:
    """`fisher.<group>` float32 (width,): sums over examples of squared gradients, clipped to `clip_norm`."""
    g, nodes = _start(graph)
    loss = cross_entropy(g, graph.classes, EXAMPLE_WEIGHTS)
    examples = ExamplePass(g, nodes, graph.shapes, layout, loss.logits_gradient)
    scores = examples.scores(clip_factors(g, examples.norms()))
    outputs = [_output(g, score, f"fisher.{group}", [group]) for group, score in scores.items()]
    return _finish(g, graph, layout, "fisher", outputs, [_clip_norm()])


def evaluate(graph: ForwardGraph, layout: Layout) -> ModelProto:
    """`loss_sum`, `correct_sum` and `weight_sum`, scalars, each weighted by example weight."""
    g, _ = _start(graph)
    loss = cross_entropy(g, graph.classes, EXAMPLE_WEIGHTS)
    hits = g.op("Cast", g.op("Equal", g.op("ArgMax", OUTPUT, axis=1, keepdims=0), TARGETS), to=TensorProto.FLOAT)
    correct = g.op("ReduceSum", g.op("Mul", hits, EXAMPLE_WEIGHTS), keepdims=0)
    weight = g.op("ReduceSum", EXAMPLE_WEIGHTS, keepdims=0)
    sums = {"loss_sum": loss.loss, "correct_sum": correct, "weight_sum": weight}
    return _finish(g, graph, layout, "evaluate", [_output(g, name, output, []) for output, name in sums.items()])


def _start(graph: ForwardGraph) -> tuple[GraphBuilder, list[NodeProto]]:
    g = GraphBuilder()
    for node in graph.nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        g.nodes.append(copy)
    return g, list(g.nodes)


def _output(g: GraphBuilder, name: str, output: str, dimensions: list[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(g.rename(name, output), TensorProto.FLOAT, dimensions)


def _clip_norm() -> ValueInfoProto:
    return helper.make_tensor_value_info(CLIP_NORM, TensorProto.FLOAT, [])


def _dimensions(parameter: Parameter) -> list[int | str]:
    dimensions: list[int | str] = list(parameter.shape)
    for cut in parameter.cuts:
        dimensions[cut.axis] = cut.group if cut.entries == 1 else f"{cut.group}*{cut.entries}"
    return dimensions


def _finish(
    g: GraphBuilder,
    graph: ForwardGraph,
    layout: Layout,
    name: str,
    outputs: list[ValueInfoProto],
    settings: Sequence[ValueInfoProto] = (),
) -> ModelProto:
    g.keep_only(output.name for output in outputs)
    inputs = [
        helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, [BATCH_AXIS, *graph.input_shape]),
        helper.make_tensor_value_info(TARGETS, TensorProto.INT64, [BATCH_AXIS]),
        helper.make_tensor_value_info(EXAMPLE_WEIGHTS, TensorProto.FLOAT, [BATCH_AXIS]),
        *settings,
        *(helper.make_tensor_value_info(p.name, TensorProto.FLOAT, _dimensions(p)) for p in layout.parameters),
    ]
    constants = [numpy_helper.from_array(array, name) for name, array in graph.constants.items()]
    return make_model(helper.make_graph(g.nodes, name, inputs, outputs, [*constants, *g.initializers()]))
