"""Operators on parameters alone, computed for each example by itself, so that its gradient goes through them.

Every example gets a copy of the parameters, along a new first axis; what is computed of a copy is a row of the result.
The rules of the operators then give the gradient of each copy, which is the example's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Shape, attribute, find_axis_rule, unite_elementwise
from model_export.autodiff.reverse import differentiate
from model_export.batch_axis import ANY_BATCH
from model_export.errors import ExportError
from model_export.torch_trace import INPUT

Constants = Mapping[str, NDArray[np.generic]]

_LAST = np.iinfo(np.int64).max


class ExampleCopies:
    """`nodes` compute tensors from `parameters` and constants alone, in topological order."""

    def __init__(
        self, g: GraphBuilder, nodes: Iterable[NodeProto], shapes: Mapping[str, Shape], constants: Constants
    ) -> None:
        self._g = g
        self._given = shapes
        self._constants = constants
        self._nodes = list(nodes)

    def gradients(self, seeds: Mapping[str, str], parameters: Iterable[str]) -> dict[str, str]:
        """Gradients of examples by the parameters, (examples, elements), from those by tensors made of them."""
        shapes = dict(self._given)
        names = {name: self._copied(name, shapes) for name in parameters}
        lifted: list[NodeProto] = []
        for node in self._nodes:
            if not names.keys().isdisjoint(node.input):
                lifted.extend(self._lifted(node, names, shapes))
        self._g.nodes.extend(lifted)
        found = differentiate(
            self._g,
            lifted,
            shapes,
            {names[name]: self._unflattened(seed, names[name]) for name, seed in seeds.items()},
            [names[name] for name in parameters],
        )
        return {name: self._g.op("Flatten", found[names[name]], axis=1) for name in parameters if names[name] in found}

    def _copied(self, name: str, shapes: dict[str, Shape]) -> str:
        g, rank = self._g, len(self._given[name])
        batch = g.op("Shape", INPUT, start=0, end=1)
        target = g.op("Concat", batch, g.sizes(*[1] * rank), axis=0) if rank else batch
        copies = g.op("Expand", name, target)
        shapes[copies] = (ANY_BATCH, *self._given[name])
        return copies

    def _unflattened(self, seed: str, copies: str) -> str:
        return self._g.op("Reshape", seed, self._g.op("Shape", copies))

    def _lifted(self, node: NodeProto, names: dict[str, str], shapes: dict[str, Shape]) -> list[NodeProto]:
        """The node on copies; `names` and `shapes` get its outputs."""
        lift = _LIFTS.get(node.op_type)
        if lift is None and find_axis_rule(node.op_type) is not unite_elementwise:
            raise ExportError(
                f"{node.op_type} at {node.name} changes a parameter before an example meets it, so that its gradient "
                "for one example is not known; apply it to activations instead"
            )
        own = GraphBuilder(f"{node.output[0]}.copies.")
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{node.output[0]}.copies"
        if lift is not None:
            lift(_Lift(self._g, copy, self._given[node.input[0]], self._constants))
        rank = len(self._given[node.output[0]])
        for index, name in enumerate(copy.input):
            if name in names:
                copy.input[index] = names[name]
                if lift is None or node.op_type == "Expand":
                    copy.input[index] = _aligned(own, names[name], rank, shapes)
        del copy.output[:]
        for output in node.output:
            names[output] = f"{output}.copies"
            copy.output.append(names[output])
            shapes[names[output]] = (ANY_BATCH, *self._given[output])
        for tensor in own.initializers():
            self._g.nodes.append(helper.make_node("Constant", [], [tensor.name], name=tensor.name, value=tensor))
            shapes[tensor.name] = tuple(tensor.dims)
        return [*own.nodes, copy]


def _aligned(g: GraphBuilder, name: str, rank: int, shapes: dict[str, Shape]) -> str:
    """With axes of size 1 after the first, where others have more axes than this operand."""
    first, *others = shapes[name]
    missing = rank - len(others)
    if not missing:
        return name
    result = g.op("Unsqueeze", name, g.sizes(*range(1, missing + 1)))
    shapes[result] = (first, *[1] * missing, *others)
    return result


class _Lift:
    """A node that is made fit for a new first axis; `shape` is that of its first input without it."""

    def __init__(self, g: GraphBuilder, node: NodeProto, shape: Shape, constants: Constants) -> None:
        self.node = node
        self.rank = len(shape)
        self._g = g
        self._constants = constants

    def set(self, name: str, value: Any) -> None:
        kept = [given for given in self.node.attribute if given.name != name]
        del self.node.attribute[:]
        self.node.attribute.extend([*kept, helper.make_attribute(name, value)])

    def read(self, index: int) -> list[int]:
        """The integers of a constant input."""
        name = self.node.input[index]
        if name not in self._constants:
            raise ExportError(f"{self.node.op_type} at {self.node.name} takes parts of a parameter that are not fixed")
        return [int(entry) for entry in self._constants[name].ravel()]

    def write(self, index: int, values: Iterable[int]) -> None:
        self.node.input[index] = self._g.sizes(*values)

    def shifted(self, axes: Iterable[int], rank: int) -> list[int]:
        return [axis % rank + 1 for axis in axes]


def _lift_axis(lift: _Lift) -> None:
    default = {"Softmax": -1, "LogSoftmax": -1}.get(lift.node.op_type, 0)
    lift.set("axis", attribute(lift.node, "axis", default) % lift.rank + 1)


def _lift_reduction(lift: _Lift) -> None:
    if len(lift.node.input) > 1 and lift.node.input[1]:
        lift.write(1, lift.shifted(lift.read(1), lift.rank))
    elif lift.node.op_type == "ReduceSum":
        lift.node.input.extend([""] * (2 - len(lift.node.input)))
        lift.write(1, range(1, lift.rank + 1))
    else:
        lift.set("axes", lift.shifted(attribute(lift.node, "axes", range(lift.rank)), lift.rank))


def _lift_squeeze(lift: _Lift) -> None:
    axes = lift.read(1)
    rank = lift.rank + (len(axes) if lift.node.op_type == "Unsqueeze" else 0)
    lift.write(1, lift.shifted(axes, rank))


def _lift_transpose(lift: _Lift) -> None:
    order = attribute(lift.node, "perm", range(lift.rank - 1, -1, -1))
    lift.set("perm", [0, *(axis + 1 for axis in order)])


def _lift_reshape(lift: _Lift) -> None:
    lift.write(1, [0, *lift.read(1)])


def _lift_expand(lift: _Lift) -> None:
    lift.write(1, [1, *lift.read(1)])


def _lift_slice(lift: _Lift) -> None:
    lift.write(1, [0, *lift.read(1)])
    lift.write(2, [_LAST, *lift.read(2)])


def _lift_pad(lift: _Lift) -> None:
    pads = lift.read(1)
    lift.write(1, [0, *pads[: lift.rank], 0, *pads[lift.rank :]])


def _lift_matmul(lift: _Lift) -> None:
    del lift


_LIFTS: dict[str, Callable[[_Lift], None]] = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Concat", "Split", "Gather"), _lift_axis),
    **dict.fromkeys(
        ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceL1", "ReduceL2", "ReduceSumSquare"),
        _lift_reduction,
    ),
    **dict.fromkeys(("ReduceLogSumExp",), _lift_reduction),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _lift_squeeze),
    "Transpose": _lift_transpose,
    "Reshape": _lift_reshape,
    "Expand": _lift_expand,
    "Slice": _lift_slice,
    "Pad": _lift_pad,
    "MatMul": _lift_matmul,
}
