"""Operators that move entries and change none."""

from __future__ import annotations

from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, attribute, axis_rule, gradient_rule
from model_export.axis_labels import FIXED, AxisLabel, AxisLabels


@gradient_rule("Flatten")
def flatten(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY in the input's shape, read at run time so that any width fits."""
    return [g.op("Reshape", dy, g.op("Shape", node.inputs[0]))]


@axis_rule("Flatten")
def flatten_axes(axes: AxisLabels, node: NodeProto) -> None:
    """One of the flattened axes can still be cut, the first that is: its entries become blocks, repeated."""
    first, *rest = axes.of(node.input[0])
    sizes = axes.shapes[node.input[0]][1:]
    cut = next((axis for axis, label in enumerate(rest) if axes.is_cut(label)), 0)
    axes.fix([label for axis, label in enumerate(rest) if axis != cut])
    kept = rest[cut] if rest else FIXED
    label = AxisLabel(kept.label, kept.block * prod(sizes[cut + 1 :]), kept.repeat * prod(sizes[:cut]))
    axes.set(node.output[0], [first, label])


@gradient_rule("Reshape")
def reshape(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY in the input's shape; the target shape has no gradient."""
    return [g.op("Reshape", dy, g.op("Shape", node.inputs[0])), None]


@axis_rule("Reshape")
def reshape_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Nothing that is reshaped is cut."""
    axes.fix(axes.of(node.input[0]))
    axes.set(node.output[0], [FIXED] * len(axes.shapes[node.output[0]]))


@gradient_rule("Transpose")
def transpose(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY with the axes put back."""
    order = permutation(node.proto, len(node.shape(node.inputs[0])))
    return [g.op("Transpose", dy, perm=[order.index(axis) for axis in range(len(order))])]


@axis_rule("Transpose")
def transpose_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Labels move with their axes."""
    labels = axes.of(node.input[0])
    axes.set(node.output[0], [labels[axis] for axis in permutation(node, len(labels))])


def permutation(node: NodeProto, rank: int) -> list[int]:
    """The axes of a Transpose's input in the order of its output."""
    return list(attribute(node, "perm", range(rank - 1, -1, -1)))


@gradient_rule("Unsqueeze")
def unsqueeze(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX is dY in the input's shape."""
    return [g.op("Reshape", dy, g.op("Shape", node.inputs[0])), *[None] * (len(node.inputs) - 1)]


@axis_rule("Unsqueeze")
def unsqueeze_axes(axes: AxisLabels, node: NodeProto) -> None:
    """A new axis of size 1 is never cut; its place is where the output has a 1 that the input has not."""
    labels = list(axes.of(node.input[0]))
    target, source = axes.shapes[node.output[0]], list(axes.shapes[node.input[0]])
    result = []
    for size in target:
        if source and source[0] == size:
            source.pop(0)
            result.append(labels.pop(0))
        else:
            result.append(FIXED)
    axes.set(node.output[0], result)
