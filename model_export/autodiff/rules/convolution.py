"""Conv over any number of spatial axes, with groups (Dumoulin and Visin, 2016, give the transposed relations).

A convolution of each channel by itself is in `depthwise`, products for the weight's gradient in `weight_products`.
"""

from __future__ import annotations

from math import prod

from onnx import NodeProto

from model_export.autodiff import depthwise, tap_rows
from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry, geometry_of
from model_export.autodiff.per_example import ExampleGradient, OuterGradient, RowsGradient, VectorGradient
from model_export.autodiff.registry import Node, attribute, axis_rule, example_rule, gradient_rule, support_check
from model_export.autodiff.weight_products import Layer, patches, weight_gradient, weight_gradients_by_example
from model_export.axis_labels import FIXED, AxisLabel, AxisLabels

COST_OF_AN_ENTRY = 20
"""Multiplications that take as long as an entry of an example's gradient that is written and read again."""


@support_check("Conv")
def check_conv(node: Node) -> str | None:
    """All but a convolution of each channel by itself over three axes."""
    rank = len(node.shape(node.inputs[1])) - 2
    if depthwise.is_depthwise(node) and rank > 2:
        return f"Conv of each channel by itself over {rank} axes; supported are 1 and 2"
    return None


@gradient_rule("Conv")
def conv(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX is the transposed convolution of dY; dW the products of shifted images with dY; dB sums dY."""
    geometry = geometry_of(node)
    alone = depthwise.is_depthwise(node)
    gradients: list[str | None] = [None] * len(node.inputs)
    if node.wanted[0]:
        gradients[0] = depthwise.input_gradient(g, node, dy) if alone else _input_gradient(g, node, dy, geometry)
    if node.wanted[1]:
        layer = _layer(node, geometry)
        gradients[1] = (
            depthwise.weight_gradient(g, node, dy) if alone else weight_gradient(g, node.inputs[0], dy, layer)
        )
    if len(node.inputs) > 2 and node.wanted[2]:
        axes = [0, *range(2, 2 + geometry.rank)]
        gradients[2] = g.op("ReduceSum", dy, g.sizes(*axes), keepdims=0)
    return gradients


def _layer(node: Node, geometry: Geometry) -> Layer:
    filters, channels = node.shape(node.inputs[1])[:2]
    return Layer(node.inputs[1], geometry, channels, filters, node.attribute("group", 1))


def _input_gradient(g: GraphBuilder, node: Node, dy: str, geometry: Geometry) -> str:
    """A convolution with the flipped kernel where that is faster than scattering the products of a transposed one."""
    filters, channels = node.shape(node.inputs[1])[:2]
    groups = node.attribute("group", 1)
    if groups == 1 and tap_rows.pays(geometry, filters, channels):
        return tap_rows.input_gradient(g, node.inputs[1], dy, geometry)
    dense = groups == 1 and all(stride == 1 for stride in geometry.strides)
    if dense and (geometry.is_pointwise or channels >= filters):
        return _flipped(g, node.inputs[1], dy, geometry)
    return g.op(
        "ConvTranspose",
        dy,
        node.inputs[1],
        group=groups,
        strides=geometry.strides,
        dilations=geometry.dilations,
        pads=geometry.pads,
        output_padding=geometry.left_over,
    )


def _flipped(g: GraphBuilder, weight: str, dy: str, geometry: Geometry) -> str:
    rank = geometry.rank
    axes = [axis for axis in range(rank) if geometry.kernel[axis] > 1]
    if axes:
        spatial, back = [axis + 2 for axis in axes], [-1] * len(axes)
        bounds = g.sizes(*back), g.sizes(*(-geometry.kernel[axis] - 1 for axis in axes))
        weight = g.op("Slice", weight, *bounds, g.sizes(*spatial), g.sizes(*back))
    reach = geometry.reach
    begins = [reach[axis] - geometry.pads[axis] for axis in range(rank)]
    ends = [reach[axis] - geometry.pads[axis + rank] for axis in range(rank)]
    pads = [*begins, *ends]
    if min(pads) < 0:
        dy = g.op("Pad", dy, g.sizes(0, 0, *(min(0, p) for p in begins), 0, 0, *(min(0, p) for p in ends)))
        pads = [max(0, pad) for pad in pads]
    turned = g.op("Transpose", weight, perm=[1, 0, *range(2, 2 + rank)])
    return g.op("Conv", dy, turned, dilations=geometry.dilations, pads=pads)


@example_rule("Conv")
def conv_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """Products for each example; or every pixel of the output is a position (Rochette et al., 2019)."""
    geometry = geometry_of(node)
    if index == 2:
        spatial = range(2, 2 + geometry.rank)
        return VectorGradient(g.op("ReduceSum", dy, g.sizes(*spatial), keepdims=0))
    if depthwise.is_depthwise(node):
        return depthwise.weight_gradients_by_example(g, node, dy)
    layer = _layer(node, geometry)
    if _prefers_gram(layer):
        deltas = g.op("Reshape", dy, g.sizes(0, -1, geometry.positions))
        inputs = patches(g, node.inputs[0], geometry)
        if geometry.positions == 1:
            deltas, inputs = (g.op("Flatten", name, axis=1) for name in (deltas, inputs))
        return OuterGradient(inputs, deltas, geometry.positions, layer.fan_in, layer.filters, True)
    part = weight_gradients_by_example(g, node.inputs[0], dy, layer)
    return RowsGradient((part,), lambda builder, sums: layer.assemble(builder, sums[0]), layer.tap_rows)


def _prefers_gram(layer: Layer) -> bool:
    """Whether products of positions with each other cost less than an example's gradient (Bu et al., 2022)."""
    positions = layer.geometry.positions
    products = positions**2 * (layer.fan_in + layer.filters)
    return layer.groups == 1 and products < COST_OF_AN_ENTRY * layer.fan_in * layer.filters


@axis_rule("Conv")
def conv_axes(axes: AxisLabels, node: NodeProto) -> None:
    """The weight's input channels go with the image's, its output channels with the output's and the bias.

    With groups, every group reads and gives the same share of its channels. Channels that are convolved by themselves
    are produced by the weight's first axis, in blocks where each gives several.
    """
    images, weight = axes.of(node.input[0]), axes.of(node.input[1])
    positions, groups = prod(axes.shapes[node.output[0]][2:]), attribute(node, "group", 1)
    filters, channels = axes.shapes[node.input[1]][:2]
    axes.fix(weight[2:])
    if groups > 1 and channels == 1:
        axes.fix(weight[1:2])
        axes.unite(weight[0], _several(images[1], filters // groups))
        axes.uses[node.input[1]] = axes.uses.get(node.input[1], 0) + positions
    elif groups > 1:
        axes.read(AxisLabel(weight[1].label, 1, groups), images[1], uses=positions)
        axes.unite(weight[0], AxisLabel(axes.fresh().label, 1, groups))
    else:
        axes.read(weight[1], images[1], uses=positions)
    for bias in node.input[2:]:
        axes.unite(weight[0], axes.of(bias)[0])
    axes.set(node.output[0], [images[0], weight[0], *[FIXED] * len(weight[2:])])


def _several(channel: AxisLabel, filters: int) -> AxisLabel:
    return AxisLabel(channel.label, channel.block * filters, channel.repeat)
