"""Normalisation over groups, instances and layers, each as one operator with one gradient rule.

torch exports a group norm (Wu and He, 2018; per instance: Ulyanov, Vedaldi and Lempitsky, 2016) as Reshape,
InstanceNormalization, Reshape, Mul by the scale and Add of the bias. Here it is `GroupNormalization` as of opset 21. In
it and in `LayerNormalization` (Ba, Kiros and Hinton, 2016) a scale of ones and a bias of zeros are left out, because
constants have a literal width. `plain_nodes` spells both in elementary operators that fit every width and take the
variance in two passes, as torch does; `every_width` spells them for training.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from model_export.autodiff.builder import GraphBuilder

Arrays = Mapping[str, NDArray[np.generic]]
Shapes = Mapping[str, tuple[int, ...]]

GROUP_NORM = "GroupNormalization"
LAYER_NORM = "LayerNormalization"


@dataclass(frozen=True)
class GroupNorm:
    """A chain of nodes from `source` to `output`; `scale` and `bias` have an entry a channel, "" for 1 and 0."""

    name: str
    source: str
    output: str
    inner: tuple[str, ...]
    groups: int
    epsilon: float
    scale: str
    bias: str

    def to_node(self) -> NodeProto:
        """The chain as one node."""
        inputs = [self.source, self.scale, self.bias]
        return helper.make_node(
            GROUP_NORM, inputs, [self.output], name=self.name, num_groups=self.groups, epsilon=self.epsilon
        )


def find_normalisations(nodes: Sequence[NodeProto], constants: Arrays, shapes: Shapes, output: str) -> list[NodeProto]:
    """The nodes that `output` needs, with one node for a group norm and without scales of 1 and biases of 0."""
    chains = _Chains(nodes, constants, shapes)
    norms = [chains.group_norm(node) for node in nodes if node.op_type == "InstanceNormalization"]
    found = {norm.output: norm for norm in norms}
    inner = {name for norm in norms for name in norm.inner}
    g = GraphBuilder()
    for node in nodes:
        if node.output[0] in found:
            g.nodes.append(found[node.output[0]].to_node())
        elif node.op_type == LAYER_NORM:
            g.nodes.append(chains.layer_norm(node))
        elif node.output[0] not in inner:
            g.nodes.append(node)
    g.keep_only([output])
    return g.nodes


class _Chains:
    """Finds what belongs to a normalisation."""

    def __init__(self, nodes: Sequence[NodeProto], constants: Arrays, shapes: Shapes) -> None:
        self._constants = constants
        self._shapes = shapes
        self._makers = {node.output[0]: node for node in nodes}
        self._readers: dict[str, list[NodeProto]] = {}
        for node in nodes:
            for name in node.input:
                self._readers.setdefault(name, []).append(node)

    def group_norm(self, node: NodeProto) -> GroupNorm:
        """Reshape to groups and back, Mul and Add of one entry a channel, as far as they are there."""
        source, scale, offset = node.input
        weight = "" if self._is(scale, 1) else scale
        bias = "" if self._is(offset, 0) else offset
        names = [node.output[0]]
        groups = self._shapes[source][1]
        epsilon = attribute(node, "epsilon", 1e-5)
        before, after = self._makers.get(source), self._only_reader(names[-1], "Reshape", "Flatten")
        if weight == bias == "" and before is not None and after is not None and self._undoes(after, before):
            source = before.input[0]
            names.append(after.output[0])
            weight = self._absorb(names, "Mul", 1)
            bias = self._absorb(names, "Add", 0)
        return GroupNorm(node.name, source, names[-1], tuple(names[:-1]), groups, epsilon, weight, bias)

    def _undoes(self, after: NodeProto, before: NodeProto) -> bool:
        return before.op_type == "Reshape" and self._shapes[before.input[0]] == self._shapes[after.output[0]]

    def layer_norm(self, node: NodeProto) -> NodeProto:
        """The node without a scale of ones and a bias of zeros."""
        x, scale, *bias = node.input
        kept = [x, "" if self._is(scale, 1) else scale, "" if not bias or self._is(bias[0], 0) else bias[0]]
        axis, epsilon = attribute(node, "axis", -1) % len(self._shapes[x]), attribute(node, "epsilon", 1e-5)
        return helper.make_node(LAYER_NORM, kept, [node.output[0]], name=node.name, axis=axis, epsilon=epsilon)

    def _absorb(self, names: list[str], op_type: str, neutral: float) -> str:
        """Append the next node of the chain to `names` and return its other input, "" where that changes nothing."""
        reader = self._only_reader(names[-1], op_type)
        if reader is None:
            return ""
        other = next((name for name in reader.input if name != names[-1]), names[-1])
        entries = self._channel_entries(other, self._shapes[names[-1]])
        if not entries and not self._is(other, neutral):
            return ""
        names.append(reader.output[0])
        return entries

    def _channel_entries(self, name: str, shape: tuple[int, ...]) -> str:
        """The vector of one entry a channel that `name` shows along the channel axis of `shape`, "" if it does not."""
        if self._shapes[name] != (shape[1], *[1] * (len(shape) - 2)) or self._is(name, 1) or self._is(name, 0):
            return ""
        maker = self._makers.get(name)
        if len(shape) > 2 and maker is not None and maker.op_type in ("Unsqueeze", "Reshape"):
            name = maker.input[0]
        return name if self._shapes[name] == (shape[1],) else ""

    def _only_reader(self, name: str, *op_types: str) -> NodeProto | None:
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and readers[0].op_type in op_types else None

    def _is(self, name: str, value: float) -> bool:
        return name in self._constants and bool(np.all(self._constants[name] == value))


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """An attribute's value or its default."""
    return next((helper.get_attribute_value(given) for given in node.attribute if given.name == name), default)


def plain_nodes(nodes: Iterable[NodeProto], shapes: Shapes) -> list[NodeProto]:
    """The nodes in operators of opset 17 alone; constants that this needs are nodes too."""
    plain = []
    for node in nodes:
        if node.op_type not in (GROUP_NORM, LAYER_NORM):
            plain.append(node)
            continue
        g = GraphBuilder(f"{node.output[0]}.")
        spell = _spell_group_norm if node.op_type == GROUP_NORM else _spell_layer_norm
        spell(g, node, shapes)
        g.nodes[-1].output[0] = node.output[0]
        plain.extend(helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in g.initializers())
        plain.extend(g.nodes)
    return plain


def _spell_group_norm(g: GraphBuilder, node: NodeProto, shapes: Shapes) -> None:
    (x, scale, bias), shape, groups = node.input, shapes[node.input[0]], attribute(node, "num_groups", 1)
    rows = g.op("Reshape", x, g.sizes(0, 0 if groups == shape[1] else groups, -1))
    result = g.op("Reshape", _standardised(g, node, rows, [2]), g.op("Shape", x))
    space = g.sizes(*range(1, len(shape) - 1))
    _scale_and_shift(g, result, *(name and g.op("Unsqueeze", name, space) for name in (scale, bias)))


def _spell_layer_norm(g: GraphBuilder, node: NodeProto, shapes: Shapes) -> None:
    x, scale, bias = node.input
    axes = list(range(attribute(node, "axis", -1), len(shapes[x])))
    _scale_and_shift(g, _standardised(g, node, x, axes), scale, bias)


def _standardised(g: GraphBuilder, node: NodeProto, rows: str, axes: list[int]) -> str:
    centred = g.op("Sub", rows, g.op("ReduceMean", rows, axes=axes))
    variance = g.op("ReduceMean", g.op("Mul", centred, centred), axes=axes)
    return g.op("Div", centred, g.op("Sqrt", g.op("Add", variance, g.constant(attribute(node, "epsilon", 1e-5)))))


def _scale_and_shift(g: GraphBuilder, result: str, scale: str, bias: str) -> None:
    if scale:
        result = g.op("Mul", result, scale)
    if bias:
        result = g.op("Add", result, bias)
    g.op("Identity", result)
