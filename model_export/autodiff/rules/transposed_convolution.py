"""ConvTranspose without groups: the transpose of a convolution from its output to its input."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import transposed_geometry_of
from model_export.autodiff.per_example import ExampleGradient, RowsGradient, VectorGradient
from model_export.autodiff.registry import Node, axis_rule, example_rule, gradient_rule, support_check
from model_export.autodiff.weight_products import Layer, weight_gradient, weight_gradients_by_example
from model_export.axis_labels import FIXED, AxisLabels


@support_check("ConvTranspose")
def check_conv_transpose(node: Node) -> str | None:
    """One group, and no output that a stride leaves out."""
    if node.attribute("group", 1) != 1:
        return f"ConvTranspose with groups = {node.attribute('group', 1)}; supported is groups = 1"
    geometry = transposed_geometry_of(node)
    if any(padding >= stride for padding, stride in zip(geometry.left_over, geometry.strides, strict=True)):
        return "ConvTranspose with output padding of at least the stride; use less"
    return None


@gradient_rule("ConvTranspose")
def conv_transpose(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = Conv(dY, W); dW as of that convolution, whose image is dY and whose output X; dB sums dY."""
    geometry = transposed_geometry_of(node)
    gradients: list[str | None] = [None] * len(node.inputs)
    if node.wanted[0]:
        gradients[0] = g.op(
            "Conv",
            dy,
            node.inputs[1],
            strides=geometry.strides,
            dilations=geometry.dilations,
            pads=geometry.pads,
        )
    if node.wanted[1]:
        gradients[1] = weight_gradient(g, dy, node.inputs[0], _layer(node))
    if len(node.inputs) > 2 and node.wanted[2]:
        axes = [0, *range(2, 2 + geometry.rank)]
        gradients[2] = g.op("ReduceSum", dy, g.sizes(*axes), keepdims=0)
    return gradients


def _layer(node: Node) -> Layer:
    filters, channels = node.shape(node.inputs[1])[:2]
    return Layer(node.inputs[1], transposed_geometry_of(node), channels, filters, 1)


@example_rule("ConvTranspose")
def conv_transpose_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """Gradients that are made; a row is what makes one output, and so the weight's second axis."""
    layer = _layer(node)
    if index == 2:
        spatial = range(2, 2 + layer.geometry.rank)
        return VectorGradient(g.op("ReduceSum", dy, g.sizes(*spatial), keepdims=0))
    part = weight_gradients_by_example(g, dy, node.inputs[0], layer)
    split = g.op("Reshape", part, g.sizes(0, 0, layer.tap_rows, -1, layer.geometry.taps // layer.tap_rows))
    rows = g.op("Reshape", g.op("Transpose", split, perm=[0, 3, 1, 2, 4]), g.sizes(0, 0, -1))

    def assemble(builder: GraphBuilder, sums: Sequence[str]) -> str:
        taps = builder.op("Reshape", sums[0], builder.sizes(0, -1, layer.geometry.taps))
        return builder.op("Reshape", builder.op("Transpose", taps, perm=[1, 0, 2]), builder.op("Shape", node.inputs[1]))

    return RowsGradient((rows,), assemble)


@axis_rule("ConvTranspose")
def conv_transpose_axes(axes: AxisLabels, node: NodeProto) -> None:
    """The weight's first axis goes with the image's channels, its second with the output's and the bias."""
    images, weight = axes.of(node.input[0]), axes.of(node.input[1])
    axes.read(weight[0], images[1], uses=prod(axes.shapes[node.input[0]][2:]))
    axes.fix(weight[2:])
    for bias in node.input[2:]:
        axes.unite(weight[1], axes.of(bias)[0])
    axes.set(node.output[0], [images[0], weight[1], *[FIXED] * len(weight[2:])])
