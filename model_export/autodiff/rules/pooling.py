"""Maximum and mean over windows of space, and over all of space."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry
from model_export.autodiff.pointwise import step
from model_export.autodiff.registry import Node, axis_rule, gradient_rule, support_check
from model_export.autodiff.weight_products import pad_axis
from model_export.axis_labels import FIXED, AxisLabels

LONGEST_BLOCK = 128
"""Entries of a block of rows up to which products with constants find first maxima faster than MaxPool's indices."""


@support_check("MaxPool", "AveragePool")
def check_pool(node: Node) -> str | None:
    """Windows within the image and its padding, over one or two axes for a mean."""
    geometry = _windows(node)
    if node.attribute("auto_pad", b"NOTSET") != b"NOTSET":
        return f"{node.proto.op_type} with auto_pad; give the padding as numbers"
    if min(geometry.left_over) < 0:
        return f"{node.proto.op_type} with windows that ceil_mode adds; use ceil_mode=False"
    if node.proto.op_type == "AveragePool" and geometry.rank > 2:
        return f"AveragePool over {geometry.rank} axes; supported are 1 and 2"
    return None


def _windows(node: Node) -> Geometry:
    kernel = tuple(node.attribute("kernel_shape", []))
    rank = len(kernel)
    return Geometry(
        node.shape(node.inputs[0])[2:],
        kernel,
        node.shape(node.output)[2:],
        tuple(node.attribute("strides", [1] * rank)),
        tuple(node.attribute("dilations", [1] * rank)),
        tuple(node.attribute("pads", [0] * 2 * rank)),
    )


@gradient_rule("MaxPool")
def max_pool(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX has dY at the position of each window's first maximum; where windows overlap, the sum."""
    geometry = _windows(node)
    apart = all(stride >= kernel for stride, kernel in zip(geometry.strides, geometry.kernel, strict=True))
    whole_windows = apart and not any(geometry.pads) and max(geometry.dilations) == 1
    if whole_windows and geometry.rank <= 2 and prod(geometry.strides[:-1]) * geometry.image[-1] <= LONGEST_BLOCK:
        return [_first_maxima(g, node, dy, geometry)]
    indices = g.add_output(node.proto)
    size = g.op("Shape", node.inputs[0])
    if whole_windows:
        return [g.op("MaxUnpool", dy, indices, size, kernel_shape=geometry.kernel, strides=geometry.strides)]
    whole = g.sizes(-1)
    flat = g.op("ConstantOfShape", g.op("Shape", g.op("Reshape", node.inputs[0], whole)))
    places, values = (g.op("Reshape", name, whole) for name in (indices, dy))
    return [g.op("Reshape", g.op("ScatterElements", flat, places, values, axis=0, reduction="add"), size)]


def _first_maxima(g: GraphBuilder, node: Node, dy: str, geometry: Geometry) -> str:
    """dY times 1 at first maxima, block by block: the rows of the image that a row of windows stands on.

    An entry that is its window's maximum counts 1, less the maxima before it in the window: the first alone stays
    above 0. MaxPool with indices is thirteen times as slow as without: both passes over (32, 6, 28, 28) take 512 us
    with indices and 228 us so (onnxruntime 1.19.2).
    """
    images, (columns, width) = node.inputs[0], (geometry.output[-1], geometry.image[-1])
    height, step_rows = (geometry.output[0], geometry.strides[0]) if geometry.rank == 2 else (1, 1)
    spare = height * step_rows - (geometry.image[0] if geometry.rank == 2 else 1)
    blocks = g.op("Reshape", pad_axis(g, images, 2, 0, (0, spare)), g.sizes(-1, step_rows * width))
    inside = _window_of_block(geometry)
    spread = g.constant(inside)
    highest, deltas = (
        g.op("MatMul", g.op("Reshape", name, g.sizes(-1, columns)), spread) for name in (node.output, dy)
    )
    is_highest = step(g, g.op("Sub", blocks, highest), at_zero=1.0)
    before = np.triu(inside.T @ inside, 1)
    firsts = g.op("Relu", g.op("MatMul", is_highest, g.constant(np.eye(len(before)) - before)))
    gradient = g.op("Mul", firsts, deltas)
    if not spare:
        return g.op("Reshape", gradient, g.op("Shape", images))
    maps = g.op("Reshape", gradient, g.op("Concat", g.op("Shape", images, end=2), g.sizes(-1, width), axis=0))
    return pad_axis(g, maps, 2, 0, (0, -spare))


def _window_of_block(geometry: Geometry) -> NDArray[np.float32]:
    """1 where an entry of a block of rows is in a window of its row of windows: (windows, rows x width)."""
    across = geometry.selection(geometry.rank - 1).sum(0).T
    rows = np.arange(geometry.strides[0]) < geometry.kernel[0] if geometry.rank == 2 else np.ones(1)
    inside: NDArray[np.float32] = (across[:, None, :] * rows[:, None]).reshape(len(across), -1).astype(np.float32)
    return inside


@gradient_rule("AveragePool")
def average_pool(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """A mean over windows is a matrix product along each axis; dX the product with the transposed matrices."""
    geometry, padding = _windows(node), bool(node.attribute("count_include_pad", 0))
    matrices = [_mean_matrix(geometry, axis, padding) for axis in range(geometry.rank)]
    result = g.op("MatMul", dy, g.constant(matrices[-1].T))
    if geometry.rank > 1:
        result = g.op("MatMul", g.constant(matrices[0]), result)
    return [result]


def _mean_matrix(geometry: Geometry, axis: int, padding: bool) -> NDArray[np.float32]:
    """(image, output): 1 / entries of a window, counting padding or not, where it has the image's entry."""
    inside = geometry.selection(axis).sum(0)
    counted = np.full(geometry.output[axis], geometry.kernel[axis]) if padding else inside.sum(0)
    matrix: NDArray[np.float32] = (inside / counted).astype(np.float32)
    return matrix


@gradient_rule("GlobalAveragePool")
def global_average_pool(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX is dY / positions at every position."""
    positions = prod(node.shape(node.inputs[0])[2:])
    share = g.op("Mul", dy, g.constant(1 / positions))
    return [g.op("Expand", share, g.op("Shape", node.inputs[0]))]


@gradient_rule("GlobalMaxPool")
def global_max_pool(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX has dY at the position of the first maximum."""
    shape = node.shape(node.inputs[0])
    flat = g.op("Reshape", node.inputs[0], g.sizes(0, 0, -1))
    place = g.op("ArgMax", flat, axis=2, keepdims=1)
    found = g.op("Equal", place, g.sizes(*range(prod(shape[2:]))))
    gradient = g.op("Where", found, g.op("Reshape", dy, g.sizes(0, 0, 1)), g.constant(0.0))
    return [g.op("Reshape", gradient, g.sizes(0, 0, *shape[2:]))]


@axis_rule("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")
def pool_axes(axes: AxisLabels, node: NodeProto) -> None:
    """Channels stay what they are; space is never cut."""
    first, second, *spatial = axes.of(node.input[0])
    axes.fix(spatial)
    axes.set(node.output[0], [first, second, *[FIXED] * len(spatial)])
