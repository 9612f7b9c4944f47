"""Sums as the third input of products, which onnxruntime starts from instead of adding it in a pass of its own.

A linear layer on more than two axes, as torch exports it, becomes such a product too: of all rows of its input. The
transformer of the zoo takes 1 % less at full width and 6 % at a quarter, where rows are short.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import attribute

Shapes = Mapping[str, tuple[int, ...]]


def move_sums_into_products(g: GraphBuilder, shapes: Shapes) -> None:
    """Leaves the products alone as dead nodes; `shapes` are static ones, of forward tensors at least."""
    _Fusion(g, shapes).run()


class _Fusion:
    def __init__(self, g: GraphBuilder, shapes: Shapes) -> None:
        self._g = g
        self._shapes = shapes
        self._makers = {name: node for node in g.nodes for name in node.output}
        self._readers = Counter(name for node in g.nodes for name in node.input)
        self._reader = {name: node for node in g.nodes for name in node.input}

    def run(self) -> None:
        nodes, self._g.nodes = self._g.nodes, []
        for node in nodes:
            before = len(self._g.nodes)
            if not (self._added_to_product(node) or self._linear(node)):
                self._g.nodes.append(node)
                continue
            self._g.nodes[-1].output[0] = node.output[0]
            self._makers.update((made.output[0], made) for made in self._g.nodes[before:])

    def _added_to_product(self, node: NodeProto) -> bool:
        """Sum of a Gemm and a matrix of its shape; the compiler's `Sum` never broadcasts."""
        if len(node.input) != 2 or node.op_type not in ("Sum", "Add"):
            return False
        known = {self._shapes.get(name) for name in node.input}
        if len(known) > 1 or (None in known and node.op_type == "Add"):
            return False
        for product, other in (node.input, reversed(node.input)):
            maker = self._only(product, "Gemm")
            if maker is not None and len(maker.input) == 2:
                transposed = {name: attribute(maker, name, 0) for name in ("transA", "transB")}
                self._g.op("Gemm", *maker.input, other, **transposed)
                return True
        return False

    def _linear(self, node: NodeProto) -> bool:
        """Vectors added to MatMul(x, w) or MatMul(x, w'), x of more than two axes."""
        reader = self._reader.get(node.output[0])
        if reader is not None and self._readers[node.output[0]] == 1 and reader.op_type == "Add" and self._bias(reader):
            return False
        biases: list[str] = []
        made: NodeProto | None = node
        while made is not None and made.op_type == "Add" and (bias := self._bias(made)):
            biases.append(bias)
            made = self._only(next(name for name in made.input if name != bias), "Add", "MatMul")
        if not biases or made is None or made.op_type != "MatMul":
            return False
        x, weight = made.input
        if len(self._shapes.get(x, ())) < 3 or len(self._shapes.get(weight, ())) != 2:
            return False
        turned = self._makers.get(weight)
        is_turned = turned is not None and turned.op_type == "Transpose"
        self._product_of_rows(x, turned.input[0] if turned is not None and is_turned else weight, biases, is_turned)
        return True

    def _product_of_rows(self, x: str, weight: str, biases: list[str], transposed: bool) -> None:
        g, axis = self._g, len(self._shapes[x]) - 1
        bias = biases[0]
        for other in biases[1:]:
            bias = g.op("Add", bias, other)
        product = g.op("Gemm", g.op("Flatten", x, axis=axis), weight, bias, transB=int(transposed))
        g.op("Reshape", product, g.op("Concat", g.op("Shape", x, end=axis), g.op("Shape", bias), axis=0))

    def _bias(self, node: NodeProto) -> str:
        """The vector that an Add adds to something of more axes and as many columns, "" if it does not."""
        out = self._shapes.get(node.output[0], ())
        for own, other in (node.input, reversed(node.input)):
            if self._shapes.get(own) == out[-1:] and self._shapes.get(other) == out and len(out) > 2:
                return str(own)
        return ""

    def _only(self, name: str, *op_types: str) -> NodeProto | None:
        """The node that makes `name`, if it is one of these and nothing else reads `name`."""
        maker = self._makers.get(name)
        return maker if maker is not None and self._readers[name] == 1 and maker.op_type in op_types else None
