"""A pass that spells operators so that their rules need not know any constant's value."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from model_export.batch_axis import is_batch


def with_plain_operators(nodes: Iterable[NodeProto], constants: Mapping[str, NDArray[np.generic]]) -> list[NodeProto]:
    """Squares and roots become `Mul` and `Sqrt`; a sum drops its axes by a `Squeeze`; a Tile becomes a `Concat`."""
    return [plain for node in nodes for plain in _plain(node, constants)]


def _plain(node: NodeProto, constants: Mapping[str, NDArray[np.generic]]) -> Iterator[NodeProto]:
    if node.op_type == "Pow":
        yield _plain_power(node, constants.get(node.input[1]))
    elif node.op_type == "ReduceSum" and len(node.input) > 1 and not _keeps_axes(node):
        kept = f"{node.output[0]}.kept"
        yield helper.make_node("ReduceSum", list(node.input), [kept], name=node.name, keepdims=1)
        yield helper.make_node("Squeeze", [kept, node.input[1]], list(node.output), name=f"{node.name}.squeeze")
    elif node.op_type == "Transpose":
        yield _plain_transpose(node)
    elif node.op_type == "Tile" and node.input[1] in constants:
        yield from _plain_tile(node, constants[node.input[1]].tolist())
    else:
        yield node


def _plain_transpose(node: NodeProto) -> NodeProto:
    """Axes from the front: torch exports movedim with others, which ONNX does not know."""
    for attribute in node.attribute:
        if attribute.name == "perm":
            attribute.ints[:] = [axis % len(attribute.ints) for axis in attribute.ints]
    return node


def _plain_tile(node: NodeProto, repeats: list[int]) -> Iterator[NodeProto]:
    """One Concat for each axis; copies for each example are an Expand."""
    source, output, ones = node.input[0], node.output[0], [1] * (len(repeats) - 1)
    if is_batch(repeats[0]):
        target = numpy_helper.from_array(np.asarray([repeats[0], *ones], dtype=np.int64), f"{output}.target")
        yield helper.make_node("Constant", [], [target.name], value=target)
        yield helper.make_node("Expand", [source, target.name], [f"{output}.examples"], name=f"{node.name}.examples")
        source, repeats = f"{output}.examples", [1, *repeats[1:]]
    for axis, count in enumerate(repeats):
        if count > 1:
            copies = f"{output}.copies{axis}"
            yield helper.make_node("Concat", [source] * count, [copies], name=f"{node.name}.{axis}", axis=axis)
            source = copies
    yield helper.make_node("Identity", [source], [output], name=node.name)


def with_matrices(nodes: Iterable[NodeProto], shapes: Mapping[str, tuple[int, ...]]) -> list[NodeProto]:
    """A product with a vector is one with a matrix of one row or column."""
    return [plain for node in nodes for plain in _with_matrix(node, shapes)]


def _with_matrix(node: NodeProto, shapes: Mapping[str, tuple[int, ...]]) -> Iterator[NodeProto]:
    ranks = [len(shapes.get(name, ())) for name in node.input]
    if node.op_type != "MatMul" or sorted(ranks)[0] != 1 or sorted(ranks)[1] < 2:
        yield node
        return
    index, output = ranks.index(1), node.output[0]
    inputs = list(node.input)
    for name, position in ((f"{output}.inner", index), (f"{output}.outer", -1 - (1 - index))):
        array = numpy_helper.from_array(np.asarray([position], dtype=np.int64), name)
        yield helper.make_node("Constant", [], [name], value=array)
    inputs[index] = f"{output}.matrix"
    yield helper.make_node("Unsqueeze", [node.input[index], f"{output}.inner"], [inputs[index]], name=inputs[index])
    yield helper.make_node("MatMul", inputs, [f"{output}.product"], name=node.name)
    yield helper.make_node("Squeeze", [f"{output}.product", f"{output}.outer"], [output], name=f"{node.name}.squeeze")


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
