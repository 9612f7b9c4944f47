"""Elementwise operators with broadcasting."""

from __future__ import annotations

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, VectorGradient
from model_export.autodiff.registry import Node, Shape, example_rule, gradient_rule


@gradient_rule("Add")
def add(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dA and dB are dY, summed over the axes along which they were broadcast."""
    target = node.shape(node.output)
    return [
        _sum_to(g, dy, target, node.shape(name)) if wanted else None
        for name, wanted in zip(node.inputs, node.wanted, strict=True)
    ]


@example_rule("Add")
def add_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """A bias along the last axis, or a table over all axes but the batch: dY summed where it was broadcast."""
    return VectorGradient(example_sum(g, node, dy, index))


def example_sum(g: GraphBuilder, node: Node, gradient: str, index: int) -> str:
    """Sum a gradient of the output's shape to an input without batch axis, for each example; (examples, elements)."""
    target, shape = node.shape(node.output), node.shape(node.inputs[index])
    padded = (1,) * (len(target) - len(shape)) + tuple(shape)
    summed = [axis for axis in range(1, len(target)) if padded[axis] == 1 != target[axis]]
    if summed:
        gradient = g.op("ReduceSum", gradient, g.sizes(*summed), keepdims=1)
    return g.op("Flatten", gradient, axis=1)


def _sum_to(g: GraphBuilder, gradient: str, shape: Shape, target: Shape) -> str:
    """Undo broadcasting of `target` to `shape` (Harris et al., 2020, rules)."""
    leading = len(shape) - len(target)
    stretched = [axis for axis in range(leading, len(shape)) if target[axis - leading] == 1 != shape[axis]]
    if stretched:
        gradient = g.op("ReduceSum", gradient, g.sizes(*stretched), keepdims=1)
    if leading:
        gradient = g.op("ReduceSum", gradient, g.sizes(*range(leading)), keepdims=0)
    return gradient
