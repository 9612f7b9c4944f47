"""Operators of a forward graph that fit one width only, spelled in others that fit every width.

These are a convolution of each channel by itself, whose number of groups is a literal, and normalisations, whose scale
and bias are optional and which `GroupNormalization` of opset 21 is too young for. The spellings are those that are fast
to train; what gradients need of them stays at hand under names of their own.
"""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

from model_export.autodiff import depthwise
from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node
from model_export.autodiff.standardisation import (
    Vectors,
    affine,
    group_rows,
    layer_rows,
    row_vectors,
    standardise,
)
from model_export.forward_graph import INPUT
from model_export.normalisation import GROUP_NORM, LAYER_NORM, Shapes


def fit_every_width(g: GraphBuilder, nodes: Iterable[NodeProto], shapes: Shapes) -> None:
    """Append nodes to `g`, those that fit one number of channels only in other operators; names of tensors stay."""
    spellings = _Spellings(g)
    for proto in nodes:
        node = Node(proto, shapes)
        if proto.op_type == "Conv" and depthwise.is_depthwise(node):
            depthwise.forward(g, node)
        elif proto.op_type == GROUP_NORM:
            spellings.group_norm(node)
        elif proto.op_type == LAYER_NORM:
            spellings.layer_norm(node)
        else:
            g.nodes.append(proto)
        spellings.note(proto)
        g.nodes[-1].output[0] = proto.output[0]


class _Spellings:
    """Layers that normalise as many rows share the vectors that this takes."""

    def __init__(self, g: GraphBuilder) -> None:
        self._g = g
        self._vectors: dict[int, Vectors] = {}
        self._of_examples = {INPUT}

    def note(self, node: NodeProto) -> None:
        """Remember which tensors depend on examples, and so have one row for each."""
        if not self._of_examples.isdisjoint(node.input):
            self._of_examples.update(node.output)

    def group_norm(self, node: Node) -> None:
        """Scale and bias are met after the rows are standardised; both in one pass where channels have positions."""
        g, (x, scale, bias) = self._g, node.inputs
        shape, groups, epsilon = node.shape(x), node.attribute("num_groups", 1), node.attribute("epsilon", 1e-5)
        vectors = self._shared(x, groups) if groups == 1 or groups < shape[1] else None
        result = standardise(g, node.proto, group_rows(g, x, groups, shape[1]), epsilon, vectors)
        if scale and len(shape) > 2:
            affine(g, result, scale, bias)
            return
        if bias and len(shape) > 2:
            bias = g.op("Unsqueeze", bias, g.sizes(*range(1, len(shape) - 1)))
        self._scale_and_shift(result, scale, bias)

    def layer_norm(self, node: Node) -> None:
        """Scale and bias have an entry for each normalised one."""
        g, (x, scale, bias) = self._g, node.inputs
        rows = layer_rows(g, x, node.attribute("axis", -1))
        self._scale_and_shift(standardise(g, node.proto, rows, node.attribute("epsilon", 1e-5)), scale, bias)

    def _scale_and_shift(self, result: str, scale: str, bias: str) -> None:
        if scale:
            result = self._g.op("Mul", result, scale)
        if bias:
            result = self._g.op("Add", result, bias)
        self._g.op("Identity", result)

    def _shared(self, x: str, groups: int) -> Vectors | None:
        if x not in self._of_examples:
            return None
        if groups not in self._vectors:
            examples = self._g.op("Shape", INPUT, start=0, end=1)
            count = self._g.op("Mul", examples, self._g.sizes(groups)) if groups > 1 else examples
            self._vectors[groups] = row_vectors(self._g, count)
        return self._vectors[groups]
