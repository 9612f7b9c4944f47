"""Rules of operators that map entries one by one, from nothing but their derivatives.

An operand of a smaller shape is broadcast (Harris et al., 2020); its gradient is summed over the axes along which it
was stretched. What is summed is read off static shapes: an axis of size 1 is never cut, so every width sums the same.
Masks are made by `step` and multiplied with, because `Where` costs several times as much in onnxruntime.
"""

from __future__ import annotations

from collections.abc import Callable

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, VectorGradient
from model_export.autodiff.registry import GradientRule, Node, Shape, example_rule, gradient_rule

UnaryPartial = Callable[[GraphBuilder, Node, str], str]
Partial = Callable[[GraphBuilder, Node, str, int], str]

STEEP = 3e38
"""A slope that takes every normal float32 above 0 beyond 1."""


def unary(*op_types: str) -> Callable[[UnaryPartial], UnaryPartial]:
    """Register `partial(builder, node, dy)`: dY times the derivative by the first input, in the same shape."""

    def register(partial: UnaryPartial) -> UnaryPartial:
        def rule(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
            return [partial(g, node, dy), *[None] * (len(node.inputs) - 1)]

        gradient_rule(*op_types)(rule)
        return partial

    return register


def pointwise(*op_types: str) -> Callable[[Partial], Partial]:
    """Register `partial(builder, node, dy, index)`: dY times the derivative by one input, in the output's shape."""

    def register(partial: Partial) -> Partial:
        gradient_rule(*op_types)(_sum_partials(partial))
        example_rule(*op_types)(_example_of(partial))
        return partial

    return register


def step(g: GraphBuilder, name: str, at_zero: float = 0.0) -> str:
    """1 where an entry is above 0, `at_zero` where it is 0, else 0: the steepest of hard sigmoids."""
    return g.op("HardSigmoid", name, alpha=STEEP, beta=at_zero)


def sum_to(g: GraphBuilder, gradient: str, shape: Shape, target: Shape) -> str:
    """Undo broadcasting of `target` to `shape`."""
    leading = len(shape) - len(target)
    stretched = [axis for axis in range(leading, len(shape)) if target[axis - leading] == 1 != shape[axis]]
    if stretched:
        gradient = g.op("ReduceSum", gradient, g.sizes(*stretched), keepdims=1)
    if leading:
        gradient = g.op("ReduceSum", gradient, g.sizes(*range(leading)), keepdims=0)
    return gradient


def example_sum(g: GraphBuilder, node: Node, gradient: str, index: int) -> str:
    """Sum a gradient of the output's shape to an input without batch axis, for each example; (examples, elements)."""
    target, shape = node.shape(node.output), node.shape(node.inputs[index])
    padded = (1,) * (len(target) - len(shape)) + tuple(shape)
    summed = [axis for axis in range(1, len(target)) if padded[axis] == 1 != target[axis]]
    if summed:
        gradient = g.op("ReduceSum", gradient, g.sizes(*summed), keepdims=1)
    return g.op("Flatten", gradient, axis=1)


def _sum_partials(partial: Partial) -> GradientRule:
    def rule(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
        shape = node.shape(node.output)
        return [
            sum_to(g, partial(g, node, dy, index), shape, node.shape(name)) if wanted else None
            for index, (name, wanted) in enumerate(zip(node.inputs, node.wanted, strict=True))
        ]

    return rule


def _example_of(partial: Partial) -> Callable[[GraphBuilder, Node, str, int], ExampleGradient]:
    def rule(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
        return VectorGradient(example_sum(g, node, partial(g, node, dy, index), index))

    return rule
