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
from model_export.autodiff.standardisation import Standardisation, affine, group_rows, layer_rows
from model_export.normalisation import GROUP_NORM, LAYER_NORM, Shapes
from model_export.torch_trace import INPUT


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
    """Normalisations; those of examples share the number of examples."""

    def __init__(self, g: GraphBuilder) -> None:
        self._g = g
        self._standardisation = Standardisation(g)
        self._counts: dict[int, str] = {}
        self._of_examples = {INPUT}

    def note(self, node: NodeProto) -> None:
        """Remember which tensors depend on examples, and so have one entry of the first axis for each."""
        if not self._of_examples.isdisjoint(node.input):
            self._of_examples.update(node.output)

    def group_norm(self, node: Node) -> None:
        """Scale and bias are met after the rows are standardised; both in one pass where channels have positions."""
        g, (x, scale, bias) = self._g, node.inputs
        shape, groups = node.shape(x), node.attribute("num_groups", 1)
        rows = group_rows(g, x, groups, shape[1])
        shared = x in self._of_examples and (groups == 1 or groups < shape[1])
        result = self._standardisation.standardise(node.proto, rows, self._count(groups) if shared else _rows(g, rows))
        if scale and len(shape) > 2:
            affine(g, result, scale, bias)
            return
        if bias and len(shape) > 2:
            bias = g.op("Unsqueeze", bias, g.sizes(*range(1, len(shape) - 1)))
        self._scale_and_shift(result, scale, bias)

    def layer_norm(self, node: Node) -> None:
        """Scale and bias have an entry for each normalised one."""
        x, scale, bias = node.inputs
        rows = layer_rows(self._g, x, node.attribute("axis", -1))
        result = self._standardisation.standardise(node.proto, rows, _rows(self._g, rows))
        self._scale_and_shift(result, scale, bias)

    def _scale_and_shift(self, result: str, scale: str, bias: str) -> None:
        if scale:
            result = self._g.op("Mul", result, scale)
        if bias:
            result = self._g.op("Add", result, bias)
        self._g.op("Identity", result)

    def _count(self, groups: int) -> str:
        if groups not in self._counts:
            examples = self._g.op("Shape", INPUT, start=0, end=1)
            self._counts[groups] = self._g.op("Mul", examples, self._g.sizes(groups)) if groups > 1 else examples
        return self._counts[groups]


def _rows(g: GraphBuilder, rows: str) -> str:
    return g.op("Shape", rows, start=1, end=2)
