"""Gradients of a convolution's weight for each example, whole and in the weight's own order.

For weights that are used in several forms, or computed from others; those of other layers are made in parts, by less
work (`weight_products`, `depthwise`).
"""

from __future__ import annotations

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry, geometry_of, transposed_geometry_of
from model_export.autodiff.registry import Node, whole_rule
from model_export.autodiff.weight_products import patches


@whole_rule("Conv")
def conv(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """Products of deltas with patches, in each group by itself."""
    geometry = geometry_of(node)
    if index == 2:
        return _over_space(g, dy, geometry)
    groups, channels = node.attribute("group", 1), node.shape(node.inputs[1])[1]
    each = node.shape(node.inputs[1])[0] // groups
    lead = [0, -1, each] if groups > 1 and channels == 1 else [0, groups, -1]
    entries = [0, -1, geometry.taps] if groups > 1 and channels == 1 else [0, groups, -1]
    return _products(g, node.inputs[0], dy, geometry, (lead, entries))


@whole_rule("ConvTranspose")
def conv_transpose(g: GraphBuilder, node: Node, dy: str, index: int) -> str:
    """Those of the convolution that it is the transpose of, which takes dY to the image."""
    if index == 2:
        return _over_space(g, dy, transposed_geometry_of(node))
    return _products(g, dy, node.inputs[0], transposed_geometry_of(node), ([0, 1, -1], [0, 1, -1]))


def _products(
    g: GraphBuilder, images: str, deltas: str, geometry: Geometry, shapes: tuple[list[int], list[int]]
) -> str:
    rows = g.op("Reshape", deltas, g.sizes(*shapes[0], geometry.positions))
    columns = g.op("Reshape", patches(g, images, geometry), g.sizes(*shapes[1], geometry.positions))
    return g.op("Flatten", g.op("MatMul", rows, g.op("Transpose", columns, perm=[0, 1, 3, 2])), axis=1)


def _over_space(g: GraphBuilder, dy: str, geometry: Geometry) -> str:
    return g.op("ReduceSum", dy, g.sizes(*range(2, 2 + geometry.rank)), keepdims=0)
