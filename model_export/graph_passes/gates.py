"""Gradients of gates (y = a b, a sigmoid or tanh) by what the forward pass has already multiplied.

dy b a (1 - a) is dy (y - y a) and dy b (1 - a a) is dy (b - y a): three nodes instead of four, which is five of 23 in a
step of an LSTM. Both differences round as those from 1 do.
"""

from __future__ import annotations

from collections import Counter

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder


def reuse_gated_products(g: GraphBuilder) -> None:
    """Rewrite such products; what they were made of may be left as dead nodes."""
    nodes, g.nodes = g.nodes, []
    gates = _Gates(g, nodes)
    for node in nodes:
        if node.op_type == "Mul" and gates.shortened(node):
            g.nodes[-1].output[0] = node.output[0]
        else:
            g.nodes.append(node)
        if node.op_type == "Mul":
            gates.products.setdefault(frozenset(node.input), node)


class _Gates:
    """`products` are the Mul nodes passed so far, by their factors."""

    def __init__(self, g: GraphBuilder, nodes: list[NodeProto]) -> None:
        self._g = g
        self._one = g.constant(1.0)
        self._makers = {name: node for node in nodes for name in node.output}
        self._readers = Counter(name for node in nodes for name in node.input)
        self.products: dict[frozenset[str], NodeProto] = {}

    def shortened(self, node: NodeProto) -> bool:
        """Whether `node` was such a product and is now a shorter one, at the end of the builder's nodes."""
        for left, right in (node.input, reversed(node.input)):
            found = self._slope(right)
            factors = self._made(left, "Mul")
            if found is None or factors is None or self._readers[left] != 1:
                continue
            gate, is_sigmoid = found
            for dy, other in (factors.input, reversed(factors.input)):
                product = self.products.get(frozenset((gate, other)))
                if product is not None:
                    y, g = product.output[0], self._g
                    g.op("Mul", dy, g.op("Sub", y if is_sigmoid else other, g.op("Mul", y, gate)))
                    return True
        return False

    def _slope(self, name: str) -> tuple[str, bool] | None:
        """The a in a (1 - a), and True, or in 1 - a a, and False."""
        product = self._made(name, "Mul")
        for gate, rest in (product.input, reversed(product.input)) if product is not None else ():
            if self._complement(rest) == gate:
                return gate, True
        square = self._made(self._complement(name), "Mul")
        if square is not None and square.input[0] == square.input[1]:
            return square.input[0], False
        return None

    def _complement(self, name: str) -> str:
        """The a in 1 - a, "" for anything else."""
        difference = self._made(name, "Sub")
        return difference.input[1] if difference is not None and difference.input[0] == self._one else ""

    def _made(self, name: str, op_type: str) -> NodeProto | None:
        maker = self._makers.get(name)
        return maker if maker is not None and maker.op_type == op_type else None
