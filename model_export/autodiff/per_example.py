"""Gradients of one parameter for each example by itself, kept in forms from which their squares are cheap.

What is asked of them is `squares`: row sums are the squared norms that clipping needs, column sums are Fisher scores.
Two forms suffice. A weight that is multiplied with inputs has the gradient sum_t delta_t input_t' over positions t; a
bias, a scale or a table has its plain elements. A parameter used in several places has the sum of its gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from model_export.autodiff.builder import GraphBuilder


@dataclass(frozen=True)
class VectorGradient:
    """`gradient` float32 (examples, elements of the parameter)."""

    gradient: str


@dataclass(frozen=True)
class OuterGradient:
    """The gradient of entry (m, k) is sum over positions t of deltas[t, m] x inputs[t, k].

    `inputs` is float32 (examples, positions, fan_in) and `deltas` (examples, positions, out); both without the
    positions axis where `positions` is 1; both with positions last where `positions_last`. The sizes are those of the
    full model; they decide how squares are computed.
    """

    inputs: str
    deltas: str
    positions: int
    fan_in: int
    out: int
    positions_last: bool = False

    @property
    def prefers_gram(self) -> bool:
        """Whether positions^2 products of inputs cost less than gradients (Li et al., 2022; Bu et al., 2022)."""
        return self.positions * (self.fan_in + self.out) < self.fan_in * self.out


ExampleGradient = VectorGradient | OuterGradient


def combine(g: GraphBuilder, gradients: Sequence[ExampleGradient]) -> ExampleGradient:
    """The gradient of a parameter with several uses."""
    first = gradients[0]
    if len(gradients) == 1:
        return first
    if isinstance(first, VectorGradient):
        total = first.gradient
        for other in gradients[1:]:
            assert isinstance(other, VectorGradient)
            total = g.op("Add", total, other.gradient)
        return VectorGradient(total)
    outers = [gradient for gradient in gradients if isinstance(gradient, OuterGradient)]
    return OuterGradient(
        g.op("Concat", *(_by_position(g, outer, outer.inputs) for outer in outers), axis=1),
        g.op("Concat", *(_by_position(g, outer, outer.deltas) for outer in outers), axis=1),
        sum(outer.positions for outer in outers),
        first.fan_in,
        first.out,
    )


def squares(g: GraphBuilder, gradient: ExampleGradient) -> str:
    """Squared elements of each example's gradient; of an outer form summed over inputs, float32 (examples, out)."""
    if isinstance(gradient, VectorGradient):
        return g.op("Mul", gradient.gradient, gradient.gradient)
    if gradient.positions == 1:
        norms = g.op("ReduceSumSquare", gradient.inputs, axes=[1], keepdims=1)
        return g.op("Mul", g.op("Mul", gradient.deltas, gradient.deltas), norms)
    inputs = _by_position(g, gradient, gradient.inputs)
    if gradient.prefers_gram:
        deltas = _by_position(g, gradient, gradient.deltas)
        gram = g.op("MatMul", inputs, _by_channel(g, gradient, gradient.inputs))
        return g.op("ReduceSum", g.op("Mul", deltas, g.op("MatMul", gram, deltas)), g.sizes(1), keepdims=0)
    products = g.op("MatMul", _by_channel(g, gradient, gradient.deltas), inputs)
    return g.op("ReduceSumSquare", products, axes=[2], keepdims=0)


def _by_position(g: GraphBuilder, outer: OuterGradient, name: str) -> str:
    if outer.positions == 1:
        return g.op("Unsqueeze", name, g.sizes(1))
    return g.op("Transpose", name, perm=[0, 2, 1]) if outer.positions_last else name


def _by_channel(g: GraphBuilder, outer: OuterGradient, name: str) -> str:
    return name if outer.positions_last else g.op("Transpose", name, perm=[0, 2, 1])
