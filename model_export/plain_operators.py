"""A pass that spells operators so that their rules need not know any constant's value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper


def with_plain_operators(nodes: Iterable[NodeProto], constants: Mapping[str, NDArray[np.generic]]) -> list[NodeProto]:
    """Squares and roots become `Mul` and `Sqrt`; a sum keeps its axes and drops them by a `Squeeze`."""
    return [plain for node in nodes for plain in _plain(node, constants)]


def _plain(node: NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> Iterator[NodeProto]:
    if node.op_type == "Pow":
        yield _plain_power(node, constants.get(node.input[1]))
    elif node.op_type == "ReduceSum" and len(node.input) > 1 and not _keeps_axes(node):
        kept = f"{node.output[0]}.kept"
        yield helper.make_node("ReduceSum", list(node.input), [kept], name=node.name, keepdims=1)
        yield helper.make_node("Squeeze", [kept, node.input[1]], list(node.output), name=f"{node.name}.squeeze")
    else:
        yield node


def _plain_power(node: NodeProto, exponent: NDArray[np.generic] | None) -> NodeProto:
    if exponent is None or exponent.ndim:
        return node
    base, outputs = node.input[0], list(node.output)
    if exponent == 2:
        return helper.make_node("Mul", [base, base], outputs, name=node.name)
    if exponent == 0.5:
        return helper.make_node("Sqrt", [base], outputs, name=node.name)
    return node


def _keeps_axes(node: NodeProto) -> bool:
    return all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
