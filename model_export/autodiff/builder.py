"""Builds ONNX nodes one after another with fresh names; constants are shared."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper


class GraphBuilder:
    """Collects nodes and initializers. Names it makes start with `prefix`, which no other name may."""

    def __init__(self, prefix: str = "fl.") -> None:
        self.nodes: list[NodeProto] = []
        self._prefix = prefix
        self._made: dict[str, NodeProto] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}
        self._initializers: list[TensorProto] = []
        self._count = 0

    def op(self, op_type: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return the output's name."""
        output = self._fresh(op_type)
        self._made[output] = helper.make_node(op_type, list(inputs), [output], name=output, **attributes)
        self.nodes.append(self._made[output])
        return output

    def maker(self, name: str) -> NodeProto | None:
        """The node that `op` made this tensor with."""
        return self._made.get(name)

    def constant(self, value: ArrayLike, dtype: type[np.generic] = np.float32) -> str:
        """Name of an initializer with this value."""
        array: NDArray[np.generic] = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = self._fresh("constant")
            self._initializers.append(numpy_helper.from_array(array, self._constants[key]))
        return self._constants[key]

    def sizes(self, *values: int) -> str:
        """Name of an int64 vector: axes, shapes, slice bounds."""
        return self.constant(values, np.int64)

    def rename(self, name: str, output: str) -> str:
        """Give the tensor `name` a second name `output`, as a graph output needs."""
        self.nodes.append(helper.make_node("Identity", [name], [output], name=output))
        return output

    def add_output(self, node: NodeProto) -> str:
        """Ask a node already in the graph for one more of its optional outputs."""
        output = self._fresh(node.op_type)
        node.output.append(output)
        return output

    def keep_only(self, outputs: Iterable[str]) -> None:
        """Drop every node that none of these tensors depends on."""
        needed, kept = set(outputs), []
        for node in reversed(self.nodes):
            if not needed.isdisjoint(node.output):
                needed.update(node.input)
                kept.append(node)
        self.nodes = kept[::-1]

    def initializers(self) -> list[TensorProto]:
        """The constants that some node reads."""
        used = {name for node in self.nodes for name in node.input}
        return [tensor for tensor in self._initializers if tensor.name in used]

    def _fresh(self, what: str) -> str:
        self._count += 1
        return f"{self._prefix}{what}.{self._count}"
