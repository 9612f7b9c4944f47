"""Maximum and mean over windows of space, and over all of space."""

from __future__ import annotations

from math import prod

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry
from model_export.autodiff.registry import Node, axis_rule, gradient_rule, support_check
from model_export.axis_labels import FIXED, AxisLabels


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
    indices = g.add_output(node.proto)
    geometry = _windows(node)
    size = g.op("Shape", node.inputs[0])
    apart = all(stride >= kernel for stride, kernel in zip(geometry.strides, geometry.kernel, strict=True))
    if apart and not any(geometry.pads) and max(geometry.dilations) == 1:
        return [g.op("MaxUnpool", dy, indices, size, kernel_shape=geometry.kernel, strides=geometry.strides)]
    whole = g.sizes(-1)
    flat = g.op("ConstantOfShape", g.op("Shape", g.op("Reshape", node.inputs[0], whole)))
    places, values = (g.op("Reshape", name, whole) for name in (indices, dy))
    return [g.op("Reshape", g.op("ScatterElements", flat, places, values, axis=0, reduction="add"), size)]


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
