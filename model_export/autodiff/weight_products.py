"""Gradients of a convolution's weight as a product of images with deltas, for each example or for all together.

With stride 1 a tap's gradient is the product of images and deltas shifted against each other: the image along the last
axis, the deltas along the one before. As many copies are made as the kernel has columns and rows, side by side, and
one matrix product has the gradients of all taps. Otherwise it is a product with patches. A product for each tap took,
beside one for all (us, 32 images, onnxruntime 1.19.2): 1355 and 329 for 5 x 5 taps of 1 channel to 6, 654 and 264 for
3 x 3 of 4 to 4 on 32 x 32 pixels, 1252 and 1048 for 32 to 32 on 16 x 16; about the same for 16 to 16 on 32 x 32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry

LARGE_GRADIENT = 4
"""Entries of the gradient over entries of an example's activations, from where one product for all examples pays."""


@dataclass(frozen=True)
class Layer:
    """A convolution: its weight (filters, channels of a group, *kernel), at full width, and the number of groups."""

    weight: str
    geometry: Geometry
    channels: int
    filters: int
    groups: int

    @property
    def fan_in(self) -> int:
        """Entries of the weight that make one output."""
        return self.channels * self.geometry.taps

    @property
    def tap_rows(self) -> int:
        """Rows of the kernel that products keep apart: their entries are (tap rows, channels, taps of a row)."""
        return self.geometry.kernel[0] if self.geometry.rank == 2 and self.geometry.can_shift else 1

    def assemble(self, g: GraphBuilder, total: str) -> str:
        """The gradient in the weight's shape from a sum of examples' gradients."""
        if self.tap_rows > 1:
            split = g.op("Reshape", total, g.sizes(0, self.tap_rows, -1, self.geometry.taps // self.tap_rows))
            total = g.op("Transpose", split, perm=[0, 2, 1, 3])
        return g.op("Reshape", total, g.op("Shape", self.weight))

    def by_filter(self, g: GraphBuilder, products: str, *lead: int) -> str:
        """Products (*lead, filters x tap rows, channels x taps of a row) as (*lead, filters, entries)."""
        if self.tap_rows == 1:
            return products
        filters = g.op("Slice", g.op("Shape", self.weight), g.sizes(0), g.sizes(1))
        return g.op("Reshape", products, g.op("Concat", *map(g.sizes, lead), filters, g.sizes(-1), axis=0))


def weight_gradient(g: GraphBuilder, images: str, dy: str, layer: Layer) -> str:
    """Gradient of the weight, summed over examples, in the weight's shape."""
    activations = layer.geometry.positions * (layer.channels + layer.filters)
    if layer.groups == 1 and layer.fan_in * layer.filters > LARGE_GRADIENT * activations:
        return layer.assemble(g, _product_of_all(g, images, dy, layer))
    gradients = weight_gradients_by_example(g, images, dy, layer)
    return layer.assemble(g, g.op("ReduceSum", gradients, g.sizes(0), keepdims=0))


def weight_gradients_by_example(g: GraphBuilder, images: str, dy: str, layer: Layer) -> str:
    """Gradients (examples, [groups,] filters, entries), sums of which `Layer.assemble` takes."""
    if layer.geometry.can_shift:
        deltas, inputs = _shifted(g, images, dy, layer.geometry, [0, 0, 1, -1])
    else:
        deltas, inputs = dy, patches(g, images, layer.geometry)
    lead, order = ([0, layer.groups], [0, 1, 3, 2]) if layer.groups > 1 else ([0], [0, 2, 1])
    shape = g.sizes(*lead, -1, _length(layer.geometry))
    turned = g.op("Transpose", g.op("Reshape", inputs, shape), perm=order)
    return layer.by_filter(g, g.op("MatMul", g.op("Reshape", deltas, shape), turned), 0)


def _product_of_all(g: GraphBuilder, images: str, dy: str, layer: Layer) -> str:
    """One product over examples and positions together, (filters, entries)."""
    swap = [1, 0, *range(2, 2 + layer.geometry.rank)]
    deltas = g.op("Transpose", dy, perm=swap)
    if not layer.geometry.can_shift:
        inputs = g.op("Transpose", patches(g, images, layer.geometry), perm=[1, 0, 2])
        return g.op("Gemm", g.op("Flatten", deltas, axis=1), g.op("Flatten", inputs, axis=1), transB=1)
    deltas, inputs = _shifted(g, g.op("Transpose", images, perm=swap), deltas, layer.geometry, [0, 1, -1])
    product = g.op("Gemm", g.op("Flatten", deltas, axis=2), g.op("Flatten", inputs, axis=2), transB=1)
    return layer.by_filter(g, product)


def patches(g: GraphBuilder, images: str, geometry: Geometry) -> str:
    """What each output reads, (examples, channels x taps, positions): each channel convolved with unit kernels."""
    if geometry.is_pointwise:
        return g.op("Reshape", _strided(g, images, geometry), g.sizes(0, -1, geometry.positions))
    units = np.eye(geometry.taps, dtype=np.float32).reshape(geometry.taps, 1, *geometry.kernel)
    unfolded = g.op(
        "Conv",
        g.op("Reshape", images, g.sizes(-1, 1, *geometry.image)),
        g.constant(units),
        strides=geometry.strides,
        dilations=geometry.dilations,
        pads=geometry.pads,
    )
    batch = g.op("Slice", g.op("Shape", images), g.sizes(0), g.sizes(1))
    return g.op("Reshape", unfolded, g.op("Concat", batch, g.sizes(-1, geometry.positions), axis=0))


def _strided(g: GraphBuilder, images: str, geometry: Geometry) -> str:
    """The pixels that a pointwise convolution reads; maxima of single pixels take half the time of Slice."""
    if max(geometry.strides) == 1:
        return images
    return g.op("MaxPool", images, kernel_shape=[1] * geometry.rank, strides=geometry.strides)


def _length(geometry: Geometry) -> int:
    """Entries that are summed over in a product for one example."""
    if geometry.rank == 2 and geometry.can_shift and not geometry.is_pointwise:
        return geometry.image[0] * geometry.output[1]
    return geometry.positions


def _shifted(g: GraphBuilder, images: str, dy: str, geometry: Geometry, flat: list[int]) -> tuple[str, str]:
    """Deltas for each row of taps and images for each column, side by side along the axis of size 1 in `flat`."""
    if geometry.is_pointwise:
        return _side_by_side(g, [dy], flat), _side_by_side(g, [_strided(g, images, geometry)], flat)
    last = geometry.rank - 1
    columns = [shift_columns(g, images, geometry, offset) for offset in geometry.offsets(last)]
    rows = [dy]
    if geometry.rank == 2:
        spare = geometry.image[0] - geometry.output[0]
        rows = [pad_axis(g, dy, 2, 0, (offset, spare - offset)) for offset in geometry.offsets(0)]
    return _side_by_side(g, rows, flat), _side_by_side(g, columns, flat)


def _side_by_side(g: GraphBuilder, tensors: Sequence[str], flat: list[int]) -> str:
    copies = [g.op("Reshape", tensor, g.sizes(*flat)) for tensor in tensors]
    return g.op("Concat", *copies, axis=flat.index(1)) if len(copies) > 1 else copies[0]


def shift_columns(g: GraphBuilder, images: str, geometry: Geometry, offset: int) -> str:
    """What outputs of a row read at this offset. Where they are as many as the image's, by a shift of the whole image:
    a third of the time for rows of 8 entries, three quarters for rows of 32, which are short to copy one by one.
    """
    last, width = geometry.rank - 1, geometry.output[-1]
    if width != geometry.image[-1] or geometry.rank == 1 or offset == 0:
        return pad_axis(g, images, geometry.rank, last, (-offset, width - geometry.image[-1] + offset))
    whole = g.op("Reshape", images, g.sizes(0, 0, prod(geometry.image)))
    moved = pad_axis(g, whole, 1, 0, (-offset, offset))
    read = np.arange(width) + offset
    inside = np.tile((read >= 0) & (read < width), geometry.image[0])
    return g.op("Mul", moved, g.constant(inside))


def pad_axis(g: GraphBuilder, tensor: str, rank: int, axis: int, pads: tuple[int, int]) -> str:
    """Zeros before and after a spatial axis, or entries off where a number is below 0."""
    if not any(pads):
        return tensor
    both = [0] * (2 * rank + 4)
    both[axis + 2], both[axis + rank + 4] = pads
    return g.op("Pad", tensor, g.sizes(*both))
