"""Operators that select, repeat or split parts of a tensor, in the few forms that gradient rules know.

A constant index becomes a Slice and a Squeeze, a Slice names a bound for every axis, slices that tile an axis evenly
become one Split, negative padding becomes a Slice, an even Split names no sizes, so that its axis can be cut, and an
Expand along the batch reads the batch's size.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper, numpy_helper

from model_export.batch_axis import ANY_BATCH

Shape = tuple[int, ...]

_END = np.iinfo(np.int64).max


def with_selected_parts(
    nodes: Sequence[NodeProto],
    constants: dict[str, NDArray[np.generic]],
    shapes: dict[str, Shape],
    tensors: tuple[str, str],
) -> list[NodeProto]:
    """The nodes in these forms; `tensors` names the input and the output. New constants are added to `constants`."""
    forms = _Forms(constants, shapes, *tensors)
    for node in nodes:
        forms.add(node)
    return forms.nodes_with_splits()


class _Forms:
    """Collects nodes in their new forms; `_slices` has the axis and the bounds of slices along one axis, by output."""

    def __init__(
        self, constants: dict[str, NDArray[np.generic]], shapes: dict[str, Shape], source: str, output: str
    ) -> None:
        self._constants = constants
        self._shapes = shapes
        self._source, self._output = source, output
        self._nodes: list[NodeProto] = []
        self._aliases: dict[str, str] = {}
        self._slices: dict[tuple[str, int], dict[tuple[int, int], str]] = {}

    def add(self, node: NodeProto) -> None:
        node.input[:] = [self._aliases.get(name, name) for name in node.input]
        known = all(not name or name in self._constants for name in node.input[1:])
        known = known and bool(node.input) and node.input[0] in self._shapes
        if node.op_type == "Gather" and known and self._index(node) is not None:
            self._gather(node)
        elif node.op_type == "Slice" and known:
            self._slice(node)
        elif node.op_type == "Split" and known:
            self._split(node)
        elif node.op_type == "Expand" and known:
            self._expand(node)
        elif node.op_type == "ConstantOfShape" and node.input[0] in self._constants:
            self._constant_of_shape(node)
        elif node.op_type == "Pad" and known:
            self._pad(node)
        else:
            self._nodes.append(node)

    def _index(self, node: NodeProto) -> tuple[int, int] | None:
        """First and past the last of the entries that a Gather takes, where they are neighbours in order."""
        indices = np.asarray(self._constants[node.input[1]])
        first = int(indices.flat[0]) % self._shapes[node.input[0]][_axis(node)] if indices.size else 0
        if indices.ndim > 1 or not indices.size or np.any(np.diff(indices.reshape(-1)) != 1):
            return None
        return first, first + indices.size

    def _gather(self, node: NodeProto) -> None:
        bounds, axis = self._index(node), _axis(node) % len(self._shapes[node.input[0]])
        assert bounds is not None
        if self._constants[node.input[1]].ndim:
            self._slice_along(node, {axis: bounds}, node.output[0])
            return
        kept = f"{node.output[0]}.kept"
        self._slice_along(node, {axis: bounds}, kept)
        axes = self._constant(f"{node.output[0]}.axes", [axis])
        source = self._aliases.get(kept, kept)
        self._nodes.append(helper.make_node("Squeeze", [source, axes], list(node.output), name=f"{node.name}.squeeze"))

    def _slice(self, node: NodeProto) -> None:
        shape = self._shapes[node.input[0]]
        starts, ends, *rest = (self._constants[name].tolist() for name in node.input[1:])
        axes = rest[0] if rest else range(len(starts))
        steps = rest[1] if len(rest) > 1 else [1]
        if any(step != 1 for step in steps):
            self._nodes.append(node)
            return
        bounds = {
            axis % len(shape): slice(start, end).indices(shape[axis])[:2]
            for start, end, axis in zip(starts, ends, axes, strict=True)
        }
        self._slice_along(node, bounds, node.output[0])

    def _slice_along(self, node: NodeProto, bounds: dict[int, tuple[int, int]], output: str) -> None:
        source, shape = node.input[0], self._shapes[node.input[0]]
        bounds = {axis: bound for axis, bound in bounds.items() if bound != (0, shape[axis])}
        if not bounds and output != self._output:
            self._aliases[output] = source
            return
        starts, ends = [0] * len(shape), [_END] * len(shape)
        for axis, (start, end) in bounds.items():
            starts[axis], ends[axis] = start, end
        inputs = [self._constant(f"{output}.{what}", values) for what, values in (("starts", starts), ("ends", ends))]
        self._nodes.append(helper.make_node("Slice", [source, *inputs], [output], name=node.name))
        if len(bounds) == 1:
            [(axis, bound)] = bounds.items()
            self._slices.setdefault((source, axis), {})[bound] = output

    def _split(self, node: NodeProto) -> None:
        size = self._shapes[node.input[0]][_axis(node)]
        sizes = self._constants[node.input[1]].tolist() if len(node.input) > 1 else []
        if len(set(sizes)) == 1 and sum(sizes) == size:
            del node.input[1:]
        self._nodes.append(node)

    def _expand(self, node: NodeProto) -> None:
        before, after = self._shapes[node.input[0]], self._shapes[node.output[0]]
        if before == after and node.output[0] != self._output:
            self._aliases[node.output[0]] = node.input[0]
            return
        own = (1,) * (len(after) - len(before)) + before
        sizes = [1 if size == target else target for size, target in zip(own, after, strict=True)]
        target = f"{node.output[0]}.shape"
        if sizes[0] == ANY_BATCH:
            batch, rest = f"{node.output[0]}.batch", self._constant(f"{node.output[0]}.rest", sizes[1:])
            self._nodes.append(helper.make_node("Shape", [self._source], [batch], name=batch, start=0, end=1))
            self._nodes.append(helper.make_node("Concat", [batch, rest], [target], name=target, axis=0))
        else:
            self._constant(target, sizes)
        self._nodes.append(helper.make_node("Expand", [node.input[0], target], list(node.output), name=node.name))

    def _constant_of_shape(self, node: NodeProto) -> None:
        """As an Expand of one entry, to the batch that the shape begins with."""
        value = next((numpy_helper.to_array(given.t) for given in node.attribute), np.zeros(1, np.float32))
        entry = f"{node.output[0]}.entry"
        self._constants[entry] = value
        self._shapes[entry] = value.shape
        self._expand(helper.make_node("Expand", [entry, node.input[0]], list(node.output), name=node.name))

    def _pad(self, node: NodeProto) -> None:
        pads, shape = self._constants[node.input[1]].tolist(), self._shapes[node.input[0]]
        if min(pads) >= 0:
            self._nodes.append(node)
            return
        kept = f"{node.output[0]}.kept"
        before, after = pads[: len(shape)], pads[len(shape) :]
        bounds = {axis: (max(0, -before[axis]), size + min(0, after[axis])) for axis, size in enumerate(shape)}
        self._slice_along(node, bounds, kept)
        added = self._constant(f"{node.output[0]}.added", [max(0, size) for size in pads])
        padded = helper.make_node("Pad", [kept, added, *node.input[2:]], list(node.output), name=f"{node.name}.padded")
        padded.attribute.extend(node.attribute)
        self._nodes.append(padded)

    def _constant(self, name: str, values: Sequence[int]) -> str:
        self._constants[name] = np.asarray(values, dtype=np.int64)
        return name

    def nodes_with_splits(self) -> list[NodeProto]:
        """All nodes; slices of one tensor that tile an axis evenly are one Split, at the place of the first."""
        splits: dict[str, NodeProto] = {}
        for (source, axis), slices in self._slices.items():
            bounds = sorted(slices)
            parts, size = [slices[bound] for bound in bounds], self._shapes[source][axis]
            even = {end - start for start, end in bounds} == {size // len(parts)}
            if even and [start for start, _ in bounds] == list(range(0, size, size // len(parts))):
                split = helper.make_node("Split", [source], parts, name=f"{parts[0]}.split", axis=axis)
                splits.update(dict.fromkeys(parts, split))
        nodes, done = [], set()
        for node in self._nodes:
            split = splits.get(node.output[0], node) if node.op_type == "Slice" else node
            if split is node:
                nodes.append(node)
            elif split.name not in done:
                done.add(split.name)
                nodes.append(split)
        return nodes


def _axis(node: NodeProto) -> int:
    return int(next((given.i for given in node.attribute if given.name == "axis"), 0))
