"""A dense convolution with stride 1 as one with kernels of a single row, whose maps are shifted and added.

Every row of taps is a convolution by itself; all are done at once, with filters for each, and their maps added as far
apart as the rows are. Less is laid out for the matrix product, by the height of the kernel, and the product has as many
more rows, which suits it: onnxruntime has no other kernel for a weight that is an input. This is the middle way between
laying out all taps and none (Vasudevan, Anderson and Gregg, 2017). Measured in us, onnxruntime 1.19.2, one thread:

    32 images         kernel, filters   output: Conv  rows   input's gradient before  rows
    (1, 28, 28)       5 x 5, 6                   170   242                       260   239
    (3, 32, 32)       3 x 3, 16                  306   506                       490   495
    (6, 14, 14)       5 x 5, 16                  440   310                       489   348
    (16, 32, 32)      3 x 3, 16                 1660  1423                      1611  1495
    (4, 32, 32)       3 x 3, 4                   258   197                       260   195
    (32, 16, 16)      3 x 3, 32                 1300  1007                      1300  1010
    (64, 8, 8)        3 x 3, 64                 1121   950                      1200   967
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry, geometry_of
from model_export.autodiff.registry import Node, Shape

COST_OF_ADDING = 0.67
"""Time to move and add an entry of a row's maps, over the time to lay out an entry for the product."""


def pays(geometry: Geometry, channels: int, filters: int) -> bool:
    """Whether laying out less of `channels` saves more than moving and adding maps of `filters` costs."""
    if geometry.rank != 2 or geometry.kernel[0] == 1 or not geometry.can_shift:
        return False
    rows, columns = geometry.kernel
    covered = all(0 <= pad <= reach for pad, reach in zip(geometry.pads, geometry.reach * 2, strict=True))
    return covered and channels * columns * (rows - 1) >= COST_OF_ADDING * filters * rows


def split_convolutions(g: GraphBuilder, shapes: Mapping[str, Shape]) -> None:
    """Replace convolutions in a builder's nodes, whose tensors have these shapes, where that pays; names stay."""
    nodes, g.nodes = g.nodes, []
    for proto in nodes:
        node = Node(proto, shapes)
        if proto.op_type == "Conv" and _pays_forward(node):
            _forward(g, node)
            g.nodes[-1].output[0] = proto.output[0]
        else:
            g.nodes.append(proto)


def _pays_forward(node: Node) -> bool:
    if node.attribute("group", 1) > 1 or not all(map(node.shape, [*node.inputs, node.output])):
        return False
    filters, channels = node.shape(node.inputs[1])[:2]
    return pays(geometry_of(node), channels, filters)


def _forward(g: GraphBuilder, node: Node) -> None:
    geometry = geometry_of(node)
    rows = _by_row(g, node.inputs[1], [0, 1], geometry.kernel[1])
    maps = _convolve(g, [node.inputs[0], rows], geometry, geometry.pads)
    result = _add_shifted(g, maps, geometry.offsets(0), geometry.image[0], geometry.output)
    if len(node.inputs) > 2:
        g.op("Add", result, g.op("Unsqueeze", node.inputs[2], g.sizes(1, 2)))


def input_gradient(g: GraphBuilder, weight: str, dy: str, geometry: Geometry) -> str:
    """DX: the same from dY, with filters and channels swapped, columns flipped and rows moved the other way."""
    if geometry.kernel[1] > 1:
        weight = g.op("Slice", weight, g.sizes(-1), g.sizes(-geometry.kernel[1] - 1), g.sizes(3), g.sizes(-1))
    rows = _by_row(g, weight, [1, 0], geometry.kernel[1])
    pads = [reach - pad for pad, reach in zip(geometry.pads, geometry.reach * 2, strict=True)]
    maps = _convolve(g, [dy, rows], geometry, pads)
    offsets = [-offset for offset in geometry.offsets(0)]
    return _add_shifted(g, maps, offsets, geometry.output[0], geometry.image)


def _by_row(g: GraphBuilder, weight: str, channels: list[int], columns: int) -> str:
    """(rows of taps x what a map is made for, what it is made from, 1, taps of a row)."""
    rows = g.op("Transpose", weight, perm=[2, *channels, 3])
    return g.op("Reshape", g.op("Flatten", rows, axis=2), g.sizes(0, -1, 1, columns))


def _convolve(g: GraphBuilder, inputs: list[str], geometry: Geometry, pads: Sequence[int]) -> str:
    return g.op("Conv", *inputs, pads=[0, pads[1], 0, pads[3]], dilations=[1, geometry.dilations[1]])


def _add_shifted(g: GraphBuilder, maps: str, offsets: list[int], height: int, output: tuple[int, ...]) -> str:
    """Row h of the output is the sum over rows of taps of row h + offset of their maps, each `height` rows."""
    columns = output[1]
    split = g.op("Reshape", maps, g.sizes(0, len(offsets), -1, height * columns))
    total = ""
    for index, offset in enumerate(offsets):
        begins = [0, -index, 0, -offset * columns]
        ends = [0, index + 1 - len(offsets), 0, (output[0] - height + offset) * columns]
        moved = g.op("Pad", split, g.sizes(*begins, *ends))
        total = g.op("Add", total, moved) if total else moved
    return g.op("Reshape", total, g.sizes(0, -1, *output))
