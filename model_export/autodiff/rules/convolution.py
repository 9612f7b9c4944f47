"""Conv without groups, over any number of spatial axes (Dumoulin and Visin, 2016, give the transposed relations)."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from onnx import NodeProto

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.per_example import ExampleGradient, OuterGradient, VectorGradient
from model_export.autodiff.registry import Node, axis_rule, example_rule, gradient_rule, support_check
from model_export.axis_labels import FIXED, AxisLabels


@dataclass(frozen=True)
class Geometry:
    """Spatial sizes of a convolution; `pads` has all begins, then all ends, as in ONNX."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    strides: list[int]
    dilations: list[int]
    pads: list[int]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)


def geometry_of(node: Node) -> Geometry:
    """Read a Conv node's geometry."""
    kernel = node.shape(node.inputs[1])[2:]
    rank = len(kernel)
    return Geometry(
        node.shape(node.inputs[0])[2:],
        kernel,
        node.shape(node.output)[2:],
        list(node.attribute("strides", [1] * rank)),
        list(node.attribute("dilations", [1] * rank)),
        list(node.attribute("pads", [0] * 2 * rank)),
    )


@support_check("Conv")
def check_conv(node: Node) -> str | None:
    """Explicit pads and one group."""
    if node.attribute("group", 1) != 1:
        return f"Conv with groups = {node.attribute('group', 1)}; supported is groups = 1"
    if node.attribute("auto_pad", b"NOTSET") != b"NOTSET":
        return "Conv with auto_pad; give the padding as numbers"
    return None


@gradient_rule("Conv")
def conv(g: GraphBuilder, node: Node, dy: str) -> list[str | None]:
    """dX = ConvTranspose(dY, W); dW = Conv(X', dY') with strides and dilations swapped; dB sums dY."""
    geometry = geometry_of(node)
    gradients: list[str | None] = [None] * len(node.inputs)
    if node.wanted[0]:
        gradients[0] = _input_gradient(g, node.inputs[1], dy, geometry)
    if node.wanted[1]:
        gradients[1] = _weight_gradient(g, node.inputs[0], dy, geometry)
    if len(node.inputs) > 2 and node.wanted[2]:
        axes = [0, *range(2, 2 + geometry.rank)]
        gradients[2] = g.op("ReduceSum", dy, g.sizes(*axes), keepdims=0)
    return gradients


def _input_gradient(g: GraphBuilder, weight: str, dy: str, geometry: Geometry) -> str:
    rank = geometry.rank
    reached = [
        (output - 1) * stride + (kernel - 1) * dilation + 1 - geometry.pads[axis] - geometry.pads[axis + rank]
        for axis, (output, stride, kernel, dilation) in enumerate(
            zip(geometry.output, geometry.strides, geometry.kernel, geometry.dilations, strict=True)
        )
    ]
    left_over = [image - size for image, size in zip(geometry.image, reached, strict=True)]
    return g.op(
        "ConvTranspose",
        dy,
        weight,
        strides=geometry.strides,
        dilations=geometry.dilations,
        pads=geometry.pads,
        output_padding=left_over,
    )


def _weight_gradient(g: GraphBuilder, images: str, dy: str, geometry: Geometry) -> str:
    swap = [1, 0, *range(2, 2 + geometry.rank)]
    product = g.op(
        "Conv",
        g.op("Transpose", images, perm=swap),
        g.op("Transpose", dy, perm=swap),
        strides=geometry.dilations,
        dilations=geometry.strides,
        pads=geometry.pads,
    )
    if _overshoots(geometry):
        spatial = range(2, 2 + geometry.rank)
        product = g.op("Slice", product, g.sizes(*[0] * geometry.rank), g.sizes(*geometry.kernel), g.sizes(*spatial))
    return g.op("Transpose", product, perm=swap)


def _overshoots(geometry: Geometry) -> bool:
    """Whether the last stride leaves input over, so that the product has more taps than the kernel."""
    rank = geometry.rank
    for axis in range(rank):
        padded = geometry.image[axis] + geometry.pads[axis] + geometry.pads[axis + rank]
        span = padded - geometry.strides[axis] * (geometry.output[axis] - 1)
        if (span - 1) // geometry.dilations[axis] + 1 > geometry.kernel[axis]:
            return True
    return False


@example_rule("Conv")
def conv_example(g: GraphBuilder, node: Node, dy: str, index: int) -> ExampleGradient:
    """Every pixel of the output is a position; its inputs are the patch below it (Rochette et al., 2019)."""
    geometry = geometry_of(node)
    if index == 2:
        spatial = range(2, 2 + geometry.rank)
        return VectorGradient(g.op("ReduceSum", dy, g.sizes(*spatial), keepdims=0))
    positions = prod(geometry.output)
    deltas = g.op("Reshape", dy, g.sizes(0, -1, positions))
    patches = _unfold(g, node.inputs[0], geometry)
    channels = node.shape(node.inputs[1])[:2]
    return OuterGradient(patches, deltas, positions, channels[1] * prod(geometry.kernel), channels[0], True)


@axis_rule("Conv")
def conv_axes(axes: AxisLabels, node: NodeProto) -> None:
    """The weight's input channels go with the image's, its output channels with the output's and the bias."""
    images, weight = axes.of(node.input[0]), axes.of(node.input[1])
    axes.read(weight[1], images[1], uses=prod(axes.shapes[node.output[0]][2:]))
    axes.fix(weight[2:])
    for bias in node.input[2:]:
        axes.unite(weight[0], axes.of(bias)[0])
    axes.set(node.output[0], [images[0], weight[0], *[FIXED] * len(weight[2:])])


def _unfold(g: GraphBuilder, images: str, geometry: Geometry) -> str:
    """Patches of shape (batch, channels x kernel, positions), by a convolution of each channel with unit kernels."""
    taps = prod(geometry.kernel)
    units = np.eye(taps, dtype=np.float32).reshape(taps, 1, *geometry.kernel)
    flat = g.op("Reshape", images, g.sizes(-1, 1, *geometry.image))
    patches = g.op(
        "Conv",
        flat,
        g.constant(units),
        strides=geometry.strides,
        dilations=geometry.dilations,
        pads=geometry.pads,
    )
    batch = g.op("Slice", g.op("Shape", images), g.sizes(0), g.sizes(1))
    return g.op("Reshape", patches, g.op("Concat", batch, g.sizes(-1, prod(geometry.output)), axis=0))
