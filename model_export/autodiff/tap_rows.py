"""A dense convolution with stride 1 as one with kernels of a single row, whose maps are shifted and added.

Every row of taps is a convolution by itself; all are done at once, with filters for each, and their maps added as far
apart as the rows are. Less is laid out for the matrix product, by the height of the kernel, and the product has as many
more rows, which suits it: onnxruntime has no other kernel for a weight that is an input. Along one spatial axis nothing
is laid out at all. This is the middle way between laying out all taps and none (Vasudevan, Anderson and Gregg, 2017).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry, geometry_of
from model_export.autodiff.registry import Node, Shape

COST_OF_ADDING = 0.67
"""Time to move and add an entry of a row's maps, over the time to lay out an entry for the product."""


def pays(geometry: Geometry, channels: int, filters: int) -> bool:
    """Whether laying out less of `channels` saves more than moving and adding maps of `filters` costs."""
    rows, columns = geometry.kernel[0], prod(geometry.kernel[1:])
    if rows == 1 or geometry.rank != 2 or not geometry.can_shift:
        return False
    covered = all(0 <= pad <= reach for pad, reach in zip(geometry.pads, geometry.reach * 2, strict=True))
    return covered and channels * columns * (rows - 1) >= COST_OF_ADDING * filters * rows


def split_convolutions(g: GraphBuilder, nodes: Sequence[NodeProto], shapes: Mapping[str, Shape]) -> None:
    """Replace those of a builder's nodes that are among `nodes` where that pays; names of tensors stay."""
    forward = {proto.output[0] for proto in nodes}
    before, g.nodes = g.nodes, []
    for proto in before:
        node = Node(proto, shapes)
        if proto.op_type == "Conv" and proto.output[0] in forward and _pays_forward(node):
            _forward(g, node)
            g.nodes[-1].output[0] = proto.output[0]
        else:
            g.nodes.append(proto)


def _pays_forward(node: Node) -> bool:
    filters, channels = node.shape(node.inputs[1])[:2]
    return node.attribute("group", 1) == 1 and pays(geometry_of(node), channels, filters)


def _forward(g: GraphBuilder, node: Node) -> None:
    geometry = geometry_of(node)
    rows = _by_row(g, node.inputs[1], [0, 1], geometry)
    maps = _convolve(g, [node.inputs[0], rows], geometry, geometry.pads)
    result = _add_shifted(g, maps, geometry.offsets(0), geometry.image[0], geometry.output)
    if len(node.inputs) > 2:
        g.op("Add", result, g.op("Unsqueeze", node.inputs[2], g.sizes(1, 2)))


def input_gradient(g: GraphBuilder, weight: str, dy: str, geometry: Geometry) -> str:
    """DX: the same from dY, with filters and channels swapped, columns flipped and rows moved the other way."""
    if geometry.rank > 1 and geometry.kernel[1] > 1:
        weight = g.op("Slice", weight, g.sizes(-1), g.sizes(-geometry.kernel[1] - 1), g.sizes(3), g.sizes(-1))
    rows = _by_row(g, weight, [1, 0], geometry)
    pads = [reach - pad for pad, reach in zip(geometry.pads, geometry.reach * 2, strict=True)]
    maps = _convolve(g, [dy, rows], geometry, pads)
    offsets = [-offset for offset in geometry.offsets(0)]
    return _add_shifted(g, maps, offsets, geometry.output[0], geometry.image)


def _by_row(g: GraphBuilder, weight: str, channels: list[int], geometry: Geometry) -> str:
    """(rows of taps x what a map is made for, what it is made from, 1, taps of a row)."""
    rows = g.op("Transpose", weight, perm=[2, *channels, *range(3, 2 + geometry.rank)])
    return g.op("Reshape", g.op("Flatten", rows, axis=2), g.sizes(0, -1, 1, *geometry.kernel[1:]))


def _convolve(g: GraphBuilder, inputs: list[str], geometry: Geometry, pads: Sequence[int]) -> str:
    others = [0 if index % geometry.rank == 0 else pad for index, pad in enumerate(pads)]
    return g.op("Conv", *inputs, pads=others, dilations=[1, *geometry.dilations[1:]])


def _add_shifted(g: GraphBuilder, maps: str, offsets: list[int], height: int, output: tuple[int, ...]) -> str:
    """Row h of the output is the sum over rows of taps of row h + offset of their maps, each `height` rows."""
    columns = prod(output[1:])
    split = g.op("Reshape", maps, g.sizes(0, len(offsets), -1, height * columns))
    total = ""
    for index, offset in enumerate(offsets):
        begins = [0, -index, 0, -offset * columns]
        ends = [0, index + 1 - len(offsets), 0, (output[0] - height + offset) * columns]
        moved = g.op("Pad", split, g.sizes(*begins, *ends))
        total = g.op("Add", total, moved) if total else moved
    return g.op("Reshape", total, g.sizes(0, -1, *output))
