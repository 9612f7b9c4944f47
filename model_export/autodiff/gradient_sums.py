"""The sum of the gradients that one tensor has from several uses.

A weight that is used at every step of a sequence has a product of deltas and inputs for each. They are one product of
all deltas with all inputs, one below the other; a bias has one sum over all deltas. LSTM of 64 units and 49 steps,
batch 32, onnxruntime 1.19.2, one thread: 48 products and their sum 0.47 ms, two Concats and one product 0.40 ms.
"""

from __future__ import annotations

from collections.abc import Sequence

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import attribute

MANY = 4
"""Parts of a kind from where one product of copied factors is cheaper."""


def summed(g: GraphBuilder, parts: Sequence[str]) -> str:
    """One tensor with the sum of tensors of one shape. A `Sum` of two, unlike an `Add`, never broadcasts."""
    rest = list(parts)
    for is_kind, join in ((_is_product, _join_products), (_is_row_sum, _join_row_sums)):
        made = [(part, g.maker(part)) for part in rest]
        kind = [node for _, node in made if node is not None and is_kind(g, node)]
        if len(kind) >= MANY:
            others = [part for part, node in made if node is None or not is_kind(g, node)]
            rest = [*others, join(g, kind)]
    total = rest[0]
    for part in rest[1:]:
        total = g.op("Sum", total, part)
    return total


def _is_product(g: GraphBuilder, node: NodeProto) -> bool:
    """A' B, summed over rows of both."""
    del g
    if node.op_type != "Gemm" or len(node.input) != 2 or attribute(node, "transB", 0):
        return False
    return bool(attribute(node, "transA", 0)) and attribute(node, "alpha", 1.0) == 1.0


def _join_products(g: GraphBuilder, nodes: Sequence[NodeProto]) -> str:
    return g.op("Gemm", *(_stacked(g, [node.input[side] for node in nodes]) for side in range(2)), transA=1)


def _is_row_sum(g: GraphBuilder, node: NodeProto) -> bool:
    if node.op_type != "ReduceSum" or len(node.input) != 2 or attribute(node, "keepdims", 1):
        return False
    return str(node.input[1]) == g.sizes(0)


def _join_row_sums(g: GraphBuilder, nodes: Sequence[NodeProto]) -> str:
    return g.op("ReduceSum", _stacked(g, [node.input[0] for node in nodes]), g.sizes(0), keepdims=0)


def _stacked(g: GraphBuilder, names: Sequence[str]) -> str:
    return g.op("Concat", *names, axis=0)
