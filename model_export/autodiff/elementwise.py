"""Elementwise operators with broadcasting."""

from __future__ import annotations

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, Place, Shape, gradient_rule, score_rule


@gradient_rule("Add")
def add(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dA and dB are dY, summed over the axes along which they were broadcast."""
    target = node.shape(node.output)
    return [
        _sum_to(g, dy, target, node.shape(name)) if wanted else None
        for name, wanted in zip(node.inputs, node.wanted, strict=True)
    ]


@score_rule("Add")
def add_scores(g: GraphBuilder, node: Node, dy: str, place: Place) -> str:
    """One example's gradient is dY summed over the axes along which the parameter was broadcast."""
    shape, own = node.shape(node.output), node.shape(node.inputs[place.index])
    leading = len(shape) - len(own)
    stretched = [axis for axis in range(1, len(shape)) if axis < leading or own[axis - leading] != shape[axis]]
    per_example = g.op("ReduceSum", dy, g.sizes(*stretched), keepdims=1) if stretched else dy
    others = [axis for axis in range(len(shape)) if axis != place.axis + leading]
    return g.op("ReduceSumSquare", per_example, axes=others, keepdims=0)


def _sum_to(g: GraphBuilder, gradient: str, shape: Shape, target: Shape) -> str:
    """Undo broadcasting of `target` to `shape` (Harris et al., 2020, rules)."""
    leading = len(shape) - len(target)
    stretched = [axis for axis in range(leading, len(shape)) if target[axis - leading] == 1 != shape[axis]]
    if stretched:
        gradient = g.op("ReduceSum", gradient, g.sizes(*stretched), keepdims=1)
    if leading:
        gradient = g.op("ReduceSum", gradient, g.sizes(*range(leading)), keepdims=0)
    return gradient
