"""Neuron groups from the forward graph: which axes of which parameters must be cut together.

Every axis of every tensor gets a label; operators unite labels (union-find). A class of labels that lies on parameter
axes and never meets the input, the output, the batch or a spatial axis is a neuron group. It is named after the first
parameter that produces it. What is computed from parameters alone has no example to be scored by and is never cut.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod

from onnx import NodeProto

from model_export.autodiff.registry import attribute
from model_export.forward_graph import INPUT, OUTPUT, ForwardGraph
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter


@dataclass(frozen=True)
class AxisLabel:
    """An axis whose entries are `block` consecutive ones for each entry of the labelled axis."""

    label: int
    block: int = 1


FIXED = AxisLabel(0)
"""The label of every axis that is never cut."""


class AxisLabels:
    """Labels of all tensors' axes, the unions found so far, and which parameter axes are only read.

    A weighted union-find: a label's parent comes with the number of its entries that make one entry of the parent.
    """

    def __init__(self, graph: ForwardGraph) -> None:
        self.shapes = graph.shapes
        self.reads: set[tuple[str, int]] = set()
        self.uses: dict[str, int] = {}
        self._parents = [FIXED]
        self._tensors = {INPUT: [FIXED] * (len(graph.input_shape) + 1)}
        for name in graph.constants:
            self._tensors[name] = [FIXED] * len(graph.shapes[name])
        for name in graph.parameters:
            self._tensors[name] = [self._fresh() for _ in graph.shapes[name]]

    def of(self, tensor: str) -> list[AxisLabel]:
        """Labels of a tensor's axes."""
        return self._tensors[tensor]

    def set(self, tensor: str, labels: list[AxisLabel]) -> None:
        """Label the axes of a node's output."""
        self._tensors[tensor] = labels

    def read(self, parameter: str, axis: int, activation: AxisLabel, uses: int) -> None:
        """Unite a parameter's input axis with the activation it reads, each entry `uses` times an example."""
        self.unite(activation, self.of(parameter)[axis])
        self.reads.add((parameter, axis))
        self.uses[parameter] = self.uses.get(parameter, 0) + uses

    def resolve(self, label: AxisLabel) -> AxisLabel:
        """The class of a label, with the entries of the axis that make one entry of the class."""
        while self._parents[label.label].label != label.label:
            parent = self._parents[label.label]
            label = AxisLabel(parent.label, label.block * parent.block)
        return label

    def unite(self, first: AxisLabel, second: AxisLabel) -> None:
        """Cut both axes together from now on, in the coarser of their blocks; never, where blocks do not nest."""
        fine, coarse = sorted((self.resolve(first), self.resolve(second)), key=lambda label: label.block)
        if FIXED.label in (fine.label, coarse.label) or coarse.block % fine.block:
            self.fix([fine, coarse])
        elif fine.label != coarse.label:
            self._parents[fine.label] = AxisLabel(coarse.label, coarse.block // fine.block)
        elif fine.block != coarse.block:
            self.fix([fine])

    def fix(self, labels: list[AxisLabel]) -> None:
        """Never cut these axes."""
        for label in labels:
            self._parents[self.resolve(label).label] = FIXED

    def fix_all(self, node: NodeProto) -> None:
        """Never cut an axis of a node's inputs or output."""
        for name in node.input:
            self.fix(self.of(name))
        self.set(node.output[0], [FIXED] * len(self.shapes[node.output[0]]))

    def _fresh(self) -> AxisLabel:
        label = AxisLabel(len(self._parents))
        self._parents.append(label)
        return label


AxisRule = Callable[[AxisLabels, NodeProto], None]


def _gemm(axes: AxisLabels, node: NodeProto) -> None:
    a, b = axes.of(node.input[0]), axes.of(node.input[1])
    out_axis, in_axis = (0, 1) if attribute(node, "transB", 0) else (1, 0)
    axes.read(node.input[1], in_axis, a[1], uses=1)
    for bias in node.input[2:]:
        axes.unite(b[out_axis], axes.of(bias)[-1])
    axes.set(node.output[0], [a[0], b[out_axis]])


def _matmul(axes: AxisLabels, node: NodeProto) -> None:
    a, b = axes.of(node.input[0]), axes.of(node.input[1])
    axes.read(node.input[1], 0, a[-1], uses=prod(axes.shapes[node.input[0]][1:-1]))
    axes.set(node.output[0], [*a[:-1], b[1]])


def _conv(axes: AxisLabels, node: NodeProto) -> None:
    images, weight = axes.of(node.input[0]), axes.of(node.input[1])
    axes.read(node.input[1], 1, images[1], uses=prod(axes.shapes[node.output[0]][2:]))
    axes.fix(weight[2:])
    for bias in node.input[2:]:
        axes.unite(weight[0], axes.of(bias)[0])
    axes.set(node.output[0], [images[0], weight[0], *[FIXED] * len(weight[2:])])


def _flatten(axes: AxisLabels, node: NodeProto) -> None:
    first, second, *rest = axes.of(node.input[0])
    shape = axes.shapes[node.input[0]]
    axes.fix(rest)
    axes.set(node.output[0], [first, AxisLabel(second.label, second.block * prod(shape[2:]))])


def _reshape(axes: AxisLabels, node: NodeProto) -> None:
    axes.fix(axes.of(node.input[0]))
    axes.set(node.output[0], [FIXED] * len(axes.shapes[node.output[0]]))


def _elementwise(axes: AxisLabels, node: NodeProto) -> None:
    """Axes are aligned from the right; an axis of size 1 that is stretched is never cut."""
    target = axes.shapes[node.output[0]]
    aligned: list[list[AxisLabel]] = [[] for _ in target]
    for name in node.input:
        shape = axes.shapes[name]
        for axis, label in zip(range(-len(shape), 0), axes.of(name), strict=True):
            if shape[axis] == target[axis]:
                aligned[axis].append(label)
            else:
                axes.fix([label])
    for first, *others in aligned:
        for other in others:
            axes.unite(first, other)
    axes.set(node.output[0], [labels[0] for labels in aligned])


def _pool(axes: AxisLabels, node: NodeProto) -> None:
    first, second, *spatial = axes.of(node.input[0])
    axes.fix(spatial)
    axes.set(node.output[0], [first, second, *[FIXED] * len(spatial)])


_RULES: dict[str, AxisRule] = {
    "Add": _elementwise,
    "Conv": _conv,
    "Flatten": _flatten,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "MaxPool": _pool,
    "Relu": _elementwise,
    "Reshape": _reshape,
}


def discover_layout(graph: ForwardGraph) -> Layout:
    """The layout of a graph whose operators are all supported; parameters in the module's order."""
    axes = AxisLabels(graph)
    varying = {INPUT}
    for node in graph.nodes:
        if varying.isdisjoint(node.input):
            axes.fix_all(node)
            continue
        _RULES[node.op_type](axes, node)
        varying.update(node.output)
    axes.fix(axes.of(OUTPUT))
    names = _group_names(graph, axes)
    sizes: dict[str, int] = {}
    parameters = []
    for name, array in graph.parameters.items():
        cuts = []
        for axis, label in enumerate(map(axes.resolve, axes.of(name))):
            if label.label in names:
                group = names[label.label]
                cuts.append(CutAxis(axis, group, label.block, produces=(name, axis) not in axes.reads))
                sizes[group] = array.shape[axis] // label.block
        parameters.append(Parameter(name, array.shape, tuple(cuts), axes.uses.get(name, 0)))
    return Layout(tuple(parameters), tuple(NeuronGroup(group, size) for group, size in sizes.items()))


def _group_names(graph: ForwardGraph, axes: AxisLabels) -> dict[int, str]:
    """Class of labels -> name of the layer whose parameter first produces it, told apart by a number if need be."""
    names: dict[int, str] = {}
    for parameter in graph.parameters:
        layer = parameter.rpartition(".")[0] or parameter
        for axis, label in enumerate(axes.of(parameter)):
            found = axes.resolve(label).label
            if found != FIXED.label and found not in names and (parameter, axis) not in axes.reads:
                earlier = list(names.values())
                number = sum(name == layer or name.startswith(f"{layer}#") for name in earlier) + 1
                names[found] = layer if number == 1 else f"{layer}#{number}"
    return names
