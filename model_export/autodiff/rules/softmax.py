"""Softmax and its logarithm (Bridle, 1990)."""

from __future__ import annotations

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, attribute, axis_rule, gradient_rule, support_check
from model_export.axis_labels import AxisLabels
from model_export.batch_axis import is_batch


@support_check("Softmax", "LogSoftmax")
def check_softmax(node: Node) -> str | None:
    """Over any axis but the batch."""
    shape = node.shape(node.output)
    axis = node.attribute("axis", -1) % len(shape)
    if is_batch(shape[axis]):
        return f"{node.proto.op_type} over the batch axis mixes examples; use one of the axes 1 to {len(shape) - 1}"
    return None


@gradient_rule("Softmax")
def softmax(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = dY Y - Y sum(dY Y)."""
    products = g.op("Mul", dy, node.output)
    return [g.op("Sub", products, g.op("Mul", node.output, _sum(g, node, products)))]


@gradient_rule("LogSoftmax")
def log_softmax(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = dY - exp(Y) sum(dY)."""
    return [g.op("Sub", dy, g.op("Mul", g.op("Exp", node.output), _sum(g, node, dy)))]


@axis_rule("Softmax", "LogSoftmax")
def softmax_axes(axes: AxisLabels, node: NodeProto) -> None:
    """The axis that is normalised is never cut."""
    labels = axes.of(node.input[0])
    axes.fix([labels[attribute(node, "axis", -1)]])
    axes.set(node.output[0], labels)


def _sum(g: GraphBuilder, node: Node, name: str) -> str:
    return g.op("ReduceSum", name, g.sizes(node.attribute("axis", -1)), keepdims=1)
