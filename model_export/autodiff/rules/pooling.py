"""MaxPool with windows that do not overlap."""

from __future__ import annotations

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.registry import Node, axis_rule, gradient_rule, support_check
from model_export.axis_labels import FIXED, AxisLabels


@support_check("MaxPool")
def check_max_pool(node: Node) -> str | None:
    """Stride at least the kernel, so that no input is the maximum of two windows."""
    kernel = node.attribute("kernel_shape", [])
    apart = all(
        stride >= size for stride, size in zip(node.attribute("strides", [1] * len(kernel)), kernel, strict=True)
    )
    plain = not any(node.attribute("pads", [0])) and all(step == 1 for step in node.attribute("dilations", [1]))
    if apart and plain and not node.attribute("ceil_mode", 0):
        return None
    return (
        "MaxPool with overlapping, padded or dilated windows; use a stride of at least the kernel size and no padding"
    )


@gradient_rule("MaxPool")
def max_pool(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX has dY at the position of each window's maximum and 0 elsewhere: MaxUnpool."""
    indices = g.add_output(node.proto)
    kernel = node.attribute("kernel_shape", [])
    size = g.op("Shape", node.inputs[0])
    return [g.op("MaxUnpool", dy, indices, size, kernel_shape=kernel, strides=node.attribute("strides", kernel))]


@axis_rule("MaxPool")
def pool_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Channels stay what they are; space is never cut."""
    first, second, *spatial = axes.of(node.input[0])
    axes.fix(spatial)
    axes.set(node.output[0], [first, second, *[FIXED] * len(spatial)])
