"""Which axes and which numbers of a traced model are its batch, found by tracing it with two batch sizes.

A trace has sizes as literals, and one of a batch cannot be told from another of the same value. So a model is traced
twice; what is in the ratio of the batch sizes depends on the batch, and stands as a multiple of `ANY_BATCH` from then
on: a prime that no layer has as its size. What depends on the batch in another way is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, helper, numpy_helper

from model_export.errors import ExportError

TRACED = (3, 5)
"""The sizes that a batch is traced with."""

ANY_BATCH = 100_003
"""Stands for the number of examples in static shapes."""

_HOW = "a graph serves batches of any size, so that no operator may depend on how many examples there are"


def is_batch(size: int) -> bool:
    """Whether a size is the number of examples, or a multiple of it."""
    return size > 0 and size % ANY_BATCH == 0


def shown(shape: Iterable[int]) -> str:
    """A shape in words, such as (batch, 3, 4)."""
    sizes = [f"{size // ANY_BATCH}*batch" if is_batch(size) else str(size) for size in shape]
    listed = ", ".join("batch" if size == "1*batch" else size for size in sizes)
    return f"({listed},)" if len(sizes) == 1 else f"({listed})"


def with_any_batch(first: ModelProto, second: ModelProto) -> ModelProto:
    """The model of the first trace with `ANY_BATCH` for its batch size; raises `ExportError` where that is not all.

    Only inputs and parameters keep static shapes.
    """
    nodes, others = list(first.graph.node), list(second.graph.node)
    if [node.op_type for node in nodes] != [node.op_type for node in others]:
        raise ExportError(f"the model's operators depend on the number of examples: use no loop over examples; {_HOW}")
    readers = {name: node for node in nodes for name in node.input}
    merged = [kept for pair in zip(nodes, others, strict=True) for kept in _merged(*pair, readers)]
    tensors = []
    for one, other in zip(first.graph.initializer, second.graph.initializer, strict=True):
        arrays = numpy_helper.to_array(one), numpy_helper.to_array(other)
        if arrays[0].shape != arrays[1].shape:
            raise ExportError(f"{one.name} has another shape for another number of examples; {_HOW}")
        tensors.append(one)
    graph = helper.make_graph(merged, "forward", first.graph.input, first.graph.output, tensors)
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = ANY_BATCH
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    return helper.make_model(graph, opset_imports=first.opset_import)


def require_no_batch_size(nodes: Iterable[NodeProto], constants: Mapping[str, NDArray[np.generic]]) -> None:
    """Raise `ExportError` where a constant that a node reads still holds the batch size."""
    held = {name for name, array in constants.items() if _holds_batch(array)}
    problems = [f"{node.op_type} at {node.name}" for node in nodes if not held.isdisjoint(node.input)]
    if problems:
        raise ExportError(f"the number of examples is a literal of {'; '.join(problems)}; {_HOW}")


def require_size_of_axis(node: NodeProto, inputs: Sequence[NDArray[np.generic]]) -> None:
    """Raise `ExportError` where a node takes the number of examples for a number to compute with."""
    target = next((attribute.i for attribute in node.attribute if attribute.name == "to"), 0)
    if node.op_type == "Cast" and target in _FLOATS and any(map(_holds_batch, inputs)):
        raise ExportError(f"Cast at {node.name}: the model computes with the number of examples; {_HOW}")


_FLOATS = (1, 10, 11, 16)


def _holds_batch(array: NDArray[np.generic]) -> bool:
    return array.dtype.kind == "i" and any(is_batch(int(entry)) for entry in array.ravel()[:_LONGEST_SHAPE])


_LONGEST_SHAPE = 64


def _merged(first: NodeProto, second: NodeProto, readers: Mapping[str, NodeProto]) -> Iterator[NodeProto]:
    """The node, or those that stand for it."""
    merged = NodeProto()
    merged.CopyFrom(first)
    for one, other in zip(merged.attribute, second.attribute, strict=True):
        if one == other or one.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS):
            continue
        arrays = _array(one), _array(other)
        sizes = _sizes(*arrays)
        if sizes is None:
            yield from _repeated(first, _row(*arrays, readers.get(first.output[0], first)))
            return
        if one.type == AttributeProto.TENSOR:
            one.t.CopyFrom(numpy_helper.from_array(sizes, one.t.name))
        else:
            one.ints[:] = sizes.tolist()
    yield merged


def _array(attribute: AttributeProto) -> NDArray[np.generic]:
    if attribute.type == AttributeProto.TENSOR:
        return numpy_helper.to_array(attribute.t)
    return np.asarray(helper.get_attribute_value(attribute))


def _row(one: NDArray[np.generic], other: NDArray[np.generic], reader: NodeProto) -> NDArray[np.generic]:
    """What both arrays repeat along a first axis as long as the batch."""
    row, another = (array[:1] if array.ndim else array for array in (one, other))
    same = (one.shape[:1], other.shape[:1]) == ((TRACED[0],), (TRACED[1],)) and row.shape == another.shape
    if not same or np.any(one != row) or np.any(other != row):
        raise ExportError(f"{reader.op_type} at {reader.name} depends on the number of examples; {_HOW}")
    return row


def _sizes(one: NDArray[np.generic], other: NDArray[np.generic]) -> NDArray[np.int64] | None:
    """Integers with `ANY_BATCH` for the batch size; None where they depend on it in another way."""
    if one.dtype.kind not in "iu" or one.shape != other.shape:
        return None
    numbers, others = one.astype(np.int64), other.astype(np.int64)
    changed = numbers != others
    if np.any(changed & (numbers * TRACED[1] != others * TRACED[0])):
        return None
    result: NDArray[np.int64] = np.where(changed, numbers // TRACED[0] * ANY_BATCH, numbers)
    return result


def _repeated(node: NodeProto, row: NDArray[np.generic]) -> Iterator[NodeProto]:
    output = node.output[0]
    shape = np.asarray([ANY_BATCH, *row.shape[1:]], dtype=np.int64)
    for name, array in ((f"{output}.row", row), (f"{output}.rows", shape)):
        yield helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(array, name))
    yield helper.make_node("Expand", [f"{output}.row", f"{output}.rows"], [output], name=node.name)
