"""Gradients of one parameter for each example by itself, kept in forms from which their squares are cheap.

What is asked of them is `squares`: row sums are the squared norms that clipping needs, column sums are Fisher scores.
A weight that is multiplied with inputs has the gradient sum_t delta_t input_t' over positions t, kept as its factors or
made, whichever is cheaper; a bias, a scale or a table has its plain elements. A parameter used in several places has
the sum of its gradients. Where gradients are made, weighted sums of them follow without another product.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from model_export.autodiff.builder import GraphBuilder


@dataclass(frozen=True)
class VectorGradient:
    """`gradient` float32 (examples, elements of the parameter)."""

    gradient: str


@dataclass(frozen=True)
class RowsGradient:
    """The entries of each row of a weight (what makes one output), in any order, spread over `parts`.

    A part is float32 (examples, ..., entries), the axes between together the weight's first. `assemble` makes the
    weight's gradient from sums of the parts over examples. Entries of the same `order` may be added.
    """

    parts: tuple[str, ...]
    assemble: Callable[[GraphBuilder, Sequence[str]], str]
    order: int = 1


@dataclass(frozen=True)
class OuterGradient:
    """The gradient of entry (m, k) is sum over positions t of deltas[t, m] x inputs[t, k].

    `inputs` is float32 (examples, positions, fan_in) and `deltas` (examples, positions, out); both without the
    positions axis where `positions` is 1; both with positions last where `positions_last`. The sizes are those of the
    full model; they decide how squares are computed. The weight is (out, fan_in), or with `out_last` (fan_in, out).
    """

    inputs: str
    deltas: str
    positions: int
    fan_in: int
    out: int
    positions_last: bool = False
    out_last: bool = False

    @property
    def prefers_gram(self) -> bool:
        """Whether positions^2 products of inputs cost less than gradients (Li et al., 2022; Bu et al., 2022)."""
        return self.positions * (self.fan_in + self.out) < self.fan_in * self.out


@dataclass(frozen=True)
class LookupGradient:
    """The gradient of row v of a table is the sum of deltas[t] over the positions t where indices[t] is v.

    `indices` is an integer tensor (examples, positions), `deltas` float32 (examples, positions, columns).
    """

    indices: str
    deltas: str
    rows: int


ExampleGradient = VectorGradient | RowsGradient | OuterGradient | LookupGradient


def share_a_form(gradients: Sequence[ExampleGradient]) -> bool:
    """Whether `combine` can add them."""
    first = gradients[0]
    return all(type(other) is type(first) and _form(other) == _form(first) for other in gradients[1:])


def _form(gradient: ExampleGradient) -> tuple[object, ...]:
    if isinstance(gradient, OuterGradient):
        return (gradient.fan_in, gradient.out, gradient.out_last)
    return (len(gradient.parts), gradient.order) if isinstance(gradient, RowsGradient) else ()


def combine(g: GraphBuilder, gradients: Sequence[ExampleGradient]) -> ExampleGradient:
    """The gradient of a parameter with several uses whose gradients share a form."""
    first = gradients[0]
    if len(gradients) == 1:
        return first
    if isinstance(first, VectorGradient):
        total = first.gradient
        for other in gradients[1:]:
            assert isinstance(other, VectorGradient)
            total = g.op("Add", total, other.gradient)
        return VectorGradient(total)
    if isinstance(first, RowsGradient):
        return _combine_rows(g, first, gradients[1:])
    if isinstance(first, LookupGradient):
        lookups = [gradient for gradient in gradients if isinstance(gradient, LookupGradient)]
        indices = g.op("Concat", *(lookup.indices for lookup in lookups), axis=1)
        deltas = g.op("Concat", *(lookup.deltas for lookup in lookups), axis=1)
        return LookupGradient(indices, deltas, first.rows)
    outers = [gradient for gradient in gradients if isinstance(gradient, OuterGradient)]
    return OuterGradient(
        g.op("Concat", *(_by_position(g, outer, outer.inputs) for outer in outers), axis=1),
        g.op("Concat", *(_by_position(g, outer, outer.deltas) for outer in outers), axis=1),
        sum(outer.positions for outer in outers),
        first.fan_in,
        first.out,
        out_last=first.out_last,
    )


def _combine_rows(g: GraphBuilder, first: RowsGradient, others: Sequence[ExampleGradient]) -> RowsGradient:
    parts = first.parts
    for other in others:
        assert isinstance(other, RowsGradient)
        parts = tuple(g.op("Add", one, two) for one, two in zip(parts, other.parts, strict=True))
    return RowsGradient(parts, first.assemble, first.order)


def elements(g: GraphBuilder, gradient: ExampleGradient) -> str:
    """The elements of each example's gradient in the order of the parameter's, float32 (examples, elements)."""
    if isinstance(gradient, VectorGradient):
        return gradient.gradient
    if isinstance(gradient, OuterGradient):
        factors = gradient.deltas, gradient.inputs
        left, right = factors[::-1] if gradient.out_last else factors
        if gradient.positions == 1:
            left, right = g.op("Unsqueeze", left, g.sizes(2)), g.op("Unsqueeze", right, g.sizes(1))
        else:
            left, right = _by_channel(g, gradient, left), _by_position(g, gradient, right)
        return g.op("Flatten", g.op("MatMul", left, right), axis=1)
    assert isinstance(gradient, LookupGradient)
    rows = g.constant(np.arange(gradient.rows).reshape(-1, 1), np.int64)
    indices = g.op("Unsqueeze", g.op("Cast", gradient.indices, to=TensorProto.INT64), g.sizes(1))
    hits = g.op("Cast", g.op("Equal", indices, rows), to=TensorProto.FLOAT)
    return g.op("Flatten", g.op("MatMul", hits, gradient.deltas), axis=1)


def weighted_sum(g: GraphBuilder, gradient: VectorGradient | RowsGradient, weights: str, like: str) -> str:
    """Sum over examples of weight x gradient in the shape of `like`; `weights` float32 (examples,)."""
    row = g.op("Unsqueeze", weights, g.sizes(0))
    if isinstance(gradient, VectorGradient):
        return g.op("Reshape", g.op("MatMul", row, gradient.gradient), g.op("Shape", like))
    sums = []
    for part in gradient.parts:
        flat = g.op("MatMul", row, g.op("Flatten", part, axis=1))
        sums.append(g.op("Reshape", flat, g.op("Shape", part, start=1)))
    return gradient.assemble(g, sums)


def weighted_product(g: GraphBuilder, gradient: OuterGradient, weights: str) -> str:
    """Sum over examples of weight x gradient, (out, fan_in), of a gradient with several positions."""
    column = g.op("Unsqueeze", weights, g.sizes(1, 2))
    rows = (g.op("Mul", gradient.deltas, column), gradient.inputs)
    return g.op("Gemm", *(g.op("Flatten", name, axis=2) for name in rows), transA=1)


def squares(g: GraphBuilder, gradient: ExampleGradient) -> str:
    """Squared elements of each example's gradient; of a weight summed over inputs, float32 (examples, out)."""
    if isinstance(gradient, VectorGradient):
        return g.op("Mul", gradient.gradient, gradient.gradient)
    if isinstance(gradient, RowsGradient):
        return _rows_squares(g, gradient)
    if isinstance(gradient, LookupGradient):
        return _lookup_squares(g, gradient)
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


def _rows_squares(g: GraphBuilder, gradient: RowsGradient) -> str:
    sums = [g.op("Flatten", g.op("ReduceSumSquare", part, axes=[-1], keepdims=0), axis=1) for part in gradient.parts]
    return g.op("Sum", *sums) if len(sums) > 1 else sums[0]


def _lookup_squares(g: GraphBuilder, gradient: LookupGradient) -> str:
    """Columns' sums of squares: the inner product of two positions counts where they read the same row."""
    rows, columns = (g.op("Unsqueeze", gradient.indices, g.sizes(axis)) for axis in (2, 1))
    same = g.op("Cast", g.op("Equal", rows, columns), to=1)
    products = g.op("Mul", gradient.deltas, g.op("MatMul", same, gradient.deltas))
    return g.op("ReduceSum", products, g.sizes(1), keepdims=0)


def _by_position(g: GraphBuilder, outer: OuterGradient, name: str) -> str:
    if outer.positions == 1:
        return g.op("Unsqueeze", name, g.sizes(1))
    return g.op("Transpose", name, perm=[0, 2, 1]) if outer.positions_last else name


def _by_channel(g: GraphBuilder, outer: OuterGradient, name: str) -> str:
    return name if outer.positions_last else g.op("Transpose", name, perm=[0, 2, 1])
