"""Gather, above all as an embedding: rows of a table by token."""

from __future__ import annotations

from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, LookupGradient
from model_export.autodiff.registry import Node, attribute, axis_rule, example_rule, gradient_rule, support_check
from model_export.axis_labels import AxisLabels
from model_export.batch_axis import shown
from model_export.errors import ExportError


@support_check("Gather")
def check_gather(node: Node) -> str | None:
    """Rows by indices of any shape, or entries of another axis by a vector of indices."""
    data, indices = (node.shape(name) for name in node.inputs)
    if node.attribute("axis", 0) % len(data) == 0 or len(indices) == 1:
        return None
    return (
        f"Gather along axis {node.attribute('axis', 0)} by indices of shape {shown(indices)}; use a vector of indices"
    )


@gradient_rule("Gather")
def gather(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """DX has the sum of dY at every entry that was taken; indices have no gradient."""
    data, indices = node.inputs
    axis, rank = node.attribute("axis", 0) % len(node.shape(data)), len(node.shape(data))
    order = [axis, *(other for other in range(rank) if other != axis)]
    if axis:
        dy = g.op("Transpose", dy, perm=order)
    sizes = g.op("Shape", data)
    zeros = g.op("ConstantOfShape", g.op("Gather", sizes, g.sizes(*order)) if axis else sizes)
    result = g.op("ScatterND", zeros, g.op("Unsqueeze", indices, g.sizes(-1)), dy, reduction="add")
    if axis:
        result = g.op("Transpose", result, perm=[order.index(other) for other in range(rank)])
    return [result, None]


@example_rule("Gather")
def gather_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """A row's gradient is the sum of dY over the positions that took it."""
    table, indices = (node.shape(name) for name in node.inputs)
    if index != 0 or len(table) != 2 or node.attribute("axis", 0) % 2:
        raise ExportError(f"Gather at {node.proto.name} takes other parts of a parameter than rows of a table")
    positions = prod(indices[1:])
    places = g.op("Reshape", node.inputs[1], g.sizes(0, positions))
    return LookupGradient(places, g.op("Reshape", dy, g.sizes(0, positions, -1)), table[0])


@axis_rule("Gather")
def gather_axes(axes: AxisLabels, node: NodeProto) -> None:
    """The axis that entries are taken from is never cut."""
    data, indices = (axes.of(name) for name in node.input)
    axis = attribute(node, "axis", 0) % len(data)
    axes.fix([data[axis]])
    axes.set(node.output[0], [*data[:axis], *indices, *data[axis + 1 :]])
