"""Sums, means, extremes and norms over some axes of each example.

`model_export.plain_operators` sees to it that a `ReduceSum` keeps the axes it sums, as axes of size 1.
"""

from __future__ import annotations

from math import prod

import numpy as np
from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.pointwise import STEEP
from model_export.autodiff.registry import Node, Shape, attribute, axis_rule, gradient_rule, support_check
from model_export.axis_labels import FIXED, AxisLabels
from model_export.batch_axis import is_batch

_REDUCTIONS = (
    *("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2"),
    *("ReduceSumSquare", "ReduceLogSumExp"),
)


@support_check(*_REDUCTIONS)
def check_reduction(node: Node) -> str | None:
    """Over any axes but the batch."""
    shape = node.shape(node.inputs[0])
    if any(is_batch(shape[axis]) for axis in _axes(node.proto, shape, node.shape(node.output))):
        return (
            f"{node.proto.op_type} over the batch axis mixes examples; reduce over axes 1 to {len(shape) - 1}, "
            "the loss takes the mean over examples"
        )
    return None


@axis_rule(*_REDUCTIONS)
def reduction_axes(axes: AxisLabels, node: NodeProto) -> None:
    """An axis that is reduced is never cut; the others stay what they are."""
    labels = axes.of(node.input[0])
    reduced = _axes(node, axes.shapes[node.input[0]], axes.shapes[node.output[0]])
    axes.fix([labels[axis] for axis in reduced])
    kept = [FIXED if axis in reduced else label for axis, label in enumerate(labels)]
    if not attribute(node, "keepdims", 1):
        kept = [label for axis, label in enumerate(labels) if axis not in reduced]
    axes.set(node.output[0], kept)


@gradient_rule("ReduceSum")
def reduce_sum(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY at every summed entry."""
    return [_spread(g, node, dy, 1.0), *[None] * (len(node.inputs) - 1)]


@gradient_rule("ReduceMean")
def reduce_mean(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = dY / n at every one of n entries."""
    shape = node.shape(node.inputs[0])
    count = prod(shape[axis] for axis in _axes(node.proto, shape, node.shape(node.output)))
    return [_spread(g, node, dy, 1 / count)]


@gradient_rule("ReduceMax", "ReduceMin")
def reduce_extremum(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dY goes to the extreme entries, shared evenly where there are several, as by torch.amax."""
    axes = _axes(node.proto, node.shape(node.inputs[0]), node.shape(node.output))
    hits = g.op("Cast", g.op("Equal", node.inputs[0], _kept(g, node, node.output)), to=1)
    count = g.op("ReduceSum", hits, g.sizes(*axes), keepdims=1)
    return [g.op("Mul", hits, g.op("Div", _kept(g, node, dy), count))]


@gradient_rule("ReduceSumSquare")
def reduce_sum_square(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = 2 dY x."""
    return [g.op("Mul", node.inputs[0], g.op("Mul", _kept(g, node, dy), g.constant(2.0)))]


@gradient_rule("ReduceL1")
def reduce_l1(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = dY sign(x), 0 at 0."""
    return [g.op("Mul", _kept(g, node, dy), g.op("Sign", node.inputs[0]))]


@gradient_rule("ReduceL2")
def reduce_l2(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = dY x / Y, 0 where Y is 0."""
    scale = g.op("Min", g.op("Reciprocal", _kept(g, node, node.output)), g.constant(STEEP))
    return [g.op("Mul", g.op("Mul", node.inputs[0], scale), _kept(g, node, dy))]


@gradient_rule("ReduceLogSumExp")
def reduce_log_sum_exp(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = dY exp(x - Y)."""
    shares = g.op("Exp", g.op("Sub", node.inputs[0], _kept(g, node, node.output)))
    return [g.op("Mul", shares, _kept(g, node, dy))]


def _axes(node: NodeProto, shape: Shape, reduced: Shape) -> list[int]:
    """The reduced axes; of a `ReduceSum` with given axes, those that have size 1 now."""
    if len(node.input) > 1:
        return [axis for axis, size in enumerate(reduced) if size == 1]
    return [axis % len(shape) for axis in attribute(node, "axes", range(len(shape)))]


def _kept(g: GraphBuilder, node: Node, name: str) -> str:
    """A tensor of the output's shape with the reduced axes as axes of size 1."""
    if node.attribute("keepdims", 1):
        return name
    return g.op("Unsqueeze", name, g.sizes(*_axes(node.proto, node.shape(node.inputs[0]), node.shape(node.output))))


def _spread(g: GraphBuilder, node: Node, dy: str, factor: float) -> str:
    """factor x dY at every reduced entry, by a constant of the reduced axes' sizes, which no cut changes."""
    shape = node.shape(node.inputs[0])
    reduced = _axes(node.proto, shape, node.shape(node.output))
    sizes = [size if axis in reduced else 1 for axis, size in enumerate(shape)]
    return g.op("Mul", _kept(g, node, dy), g.constant(np.full(sizes, factor)))
