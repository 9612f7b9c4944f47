"""Convolution of each channel by itself (`group` = number of channels), in operators that fit any number of channels.

ONNX has the number of groups as a literal of the node, so no such node fits every width. Instead a channel's kernel
becomes a banded (Toeplitz) matrix that takes the rows under it to some rows of the output, and the convolution one
matrix product for each channel: more multiplications, but as fast, because they are dense. Weights are (channels x
several, 1, *kernel). Small maps have one matrix (`image_matrices`), very long rows are convolved tap by tap. Limits
were measured with onnxruntime 1.19.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import product
from math import prod

import numpy as np
from numpy.typing import NDArray

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry, geometry_of
from model_export.autodiff.image_matrices import ImageMatrices
from model_export.autodiff.per_example import RowsGradient
from model_export.autodiff.registry import Node
from model_export.autodiff.row_blocks import RowBlocks, blocks_back, blocks_onwards
from model_export.autodiff.weight_products import pad_axis

LONGEST_ROW = 27
"""Entries of a row, for each column of the kernel, up to which matrices are faster than taps."""

LONG_ROW = 32
"""Entries of a row from where shifted products give the weight's gradient faster than the matrix's gradient does."""

FEW_POSITIONS = 150
"""Positions up to which an example's gradient is gathered with channels last."""


def is_depthwise(node: Node) -> bool:
    """Whether a Conv node convolves each of several channels by itself."""
    return node.attribute("group", 1) > 1 and node.shape(node.inputs[1])[1] == 1


def forward(g: GraphBuilder, node: Node) -> str:
    """The node's output, (examples, channels x several, *output)."""
    matrices = _image_matrices(node)
    result = matrices.forward(g, node.inputs[0]) if matrices.fits else _forward_of_parts(g, node)
    if len(node.inputs) > 2:
        bias = g.op("Unsqueeze", node.inputs[2], g.sizes(*range(1, len(node.shape(node.output)) - 1)))
        result = g.op("Add", result, bias)
    return result


def input_gradient(g: GraphBuilder, node: Node, dy: str) -> str:
    """DX: products of the rows of dY that read some rows of the image, with their matrix."""
    matrices = _image_matrices(node)
    if matrices.fits:
        return matrices.input_gradient(g, dy)
    layer = _Depthwise(node)
    if layer.by_rows:
        rows = g.op("MatMul", layer.delta_rows(g, dy), layer.matrix_back(g))
        result = layer.from_rows(g, rows, layer.back, 1)
    else:
        result = layer.scatter_taps(g, dy)
    if layer.is_lifted or layer.several > 1:
        result = g.op("Reshape", result, g.sizes(0, -1, *node.shape(node.inputs[0])[2:]))
    return result


def weight_gradient(g: GraphBuilder, node: Node, dy: str) -> str:
    """Gradient of the weight, summed over examples: each tap's entries of the gradient of the matrix."""
    matrices = _image_matrices(node)
    if matrices.fits:
        return matrices.weight_gradient(g, node.inputs[0], dy)
    layer = _Depthwise(node)
    if not layer.by_rows or (layer.can_shift and layer.geometry.output[1] > LONG_ROW):
        gradient = weight_gradients_by_example(g, node, dy)
        return gradient.assemble(g, [g.op("ReduceSum", part, g.sizes(0), keepdims=0) for part in gradient.parts])
    images = g.op("Transpose", layer.image_blocks(g), perm=[0, 2, 1])
    products = g.op("Transpose", g.op("MatMul", images, layer.delta_rows(g, dy)), perm=[0, 2, 1])
    products = g.op("Reshape", products, g.sizes(-1, prod(layer.back.entries)))
    taps = g.op("MatMul", products, g.op("Transpose", layer.back.selection(g), perm=[1, 0]))
    return g.op("Reshape", taps, g.op("Shape", node.inputs[1]))


def weight_gradients_by_example(g: GraphBuilder, node: Node, dy: str) -> RowsGradient:
    """One part, (examples, channels x several, taps)."""
    layer = _Depthwise(node)
    if layer.geometry.positions > FEW_POSITIONS and layer.can_shift:
        part = layer.shifted_products(g, dy)
    else:
        part = layer.gathered_products(g, dy)

    def assemble(builder: GraphBuilder, sums: Sequence[str]) -> str:
        return builder.op("Reshape", sums[0], builder.op("Shape", node.inputs[1]))

    return RowsGradient((part,), assemble)


def _image_matrices(node: Node) -> ImageMatrices:
    several = node.shape(node.inputs[1])[0] // node.attribute("group", 1)
    return ImageMatrices(node.inputs[1], geometry_of(node), several)


def _forward_of_parts(g: GraphBuilder, node: Node) -> str:
    layer = _Depthwise(node)
    if layer.by_rows:
        rows = g.op("MatMul", layer.image_rows(g), layer.matrix(g))
        result = layer.from_rows(g, rows, layer.onwards, layer.several)
    else:
        result = layer.tap_by_tap(g)
    if layer.is_lifted or layer.several > 1:
        result = g.op("Reshape", result, g.sizes(0, -1, *node.shape(node.output)[2:]))
    return result


class _Depthwise:
    """A depthwise node as one over two spatial axes. Rows are (channels, examples x blocks, entries).

    `live_taps` are the taps (row, column) that some output reads the image through.
    """

    def __init__(self, node: Node) -> None:
        self.weight = node.inputs[1]
        self.geometry = geometry_of(node).lifted()
        self.several = node.shape(node.inputs[1])[0] // node.attribute("group", 1)
        live = [np.flatnonzero(self.geometry.selection(axis).any(axis=(1, 2))).tolist() for axis in range(2)]
        self.live_taps = list(product(*live))
        self.by_rows = self.geometry.image[1] <= LONGEST_ROW * self.geometry.kernel[1] or not self.live_taps
        self.is_lifted = len(node.shape(node.output)) == 3
        self._source = node.inputs[0]

    @cached_property
    def onwards(self) -> RowBlocks:
        """From the image to the output."""
        return blocks_onwards(self.geometry)

    @cached_property
    def back(self) -> RowBlocks:
        """From the output to the image."""
        return blocks_back(self.geometry)

    @property
    def can_shift(self) -> bool:
        """Whether images and deltas are shifted against each other by whole columns that leave something of both."""
        offsets = self.geometry.read(1)[:, 0]
        image, output = self.geometry.image[1], self.geometry.output[1]
        return self.geometry.strides[1] == 1 and bool(np.all((-output < offsets) & (offsets < image)))

    def images(self, g: GraphBuilder) -> str:
        """(examples, channels, height, width)."""
        return g.op("Unsqueeze", self._source, g.sizes(2)) if self.is_lifted else self._source

    def image_rows(self, g: GraphBuilder) -> str:
        """Rows of the image for each block of the output."""
        return self.onwards.gather(g, g.op("Transpose", self.images(g), perm=[1, 0, 2, 3]), 1)

    def delta_rows(self, g: GraphBuilder, dy: str) -> str:
        """Rows of all of a channel's outputs for each block of the image."""
        height, width = self.geometry.output
        if self.is_lifted or self.several > 1:
            dy = g.op("Reshape", dy, g.sizes(0, -1, self.several * height, width))
        return self.back.gather(g, g.op("Transpose", dy, perm=[1, 0, 2, 3]), self.several)

    def image_blocks(self, g: GraphBuilder) -> str:
        """The image in the blocks that `delta_rows` are for."""
        given = self.back.taps.shape[2]
        rows = g.op("Transpose", self.images(g), perm=[1, 0, 2, 3])
        rows = pad_axis(g, rows, 2, 0, (0, len(self.back.taken) * given - self.back.total))
        return g.op("Reshape", rows, g.sizes(0, -1, self.back.entries[1]))

    def from_rows(self, g: GraphBuilder, rows: str, blocks: RowBlocks, several: int) -> str:
        """(examples, channels, several x blocks, entries) or the same in rows, from products with a matrix."""
        count, entries = len(blocks.taken), blocks.entries[1]
        width = blocks.columns.shape[2]
        height = count * entries // width
        if several > 1:
            split = g.op("Reshape", rows, g.sizes(0, -1, count, several, entries))
            return g.op("Transpose", split, perm=[1, 0, 3, 2, 4])
        image = g.op("Transpose", g.op("Reshape", rows, g.sizes(0, -1, height, width)), perm=[1, 0, 2, 3])
        return pad_axis(g, image, 2, 0, (0, blocks.total - height))

    def matrix(self, g: GraphBuilder) -> str:
        """(channels, entries of rows, several x entries given)."""
        taps = g.op("Reshape", self.weight, g.sizes(-1, self.geometry.taps))
        matrix, (entries, given) = g.op("MatMul", taps, self.onwards.selection(g)), self.onwards.entries
        if self.several > 1:
            split = g.op("Reshape", matrix, g.sizes(-1, self.several, entries, given))
            matrix = g.op("Transpose", split, perm=[0, 2, 1, 3])
        return g.op("Reshape", matrix, g.sizes(-1, entries, self.several * given))

    def matrix_back(self, g: GraphBuilder) -> str:
        """(channels, several x entries of rows, entries given)."""
        taps = g.op("Reshape", self.weight, g.sizes(-1, self.geometry.taps))
        matrix, (entries, given) = g.op("MatMul", taps, self.back.selection(g)), self.back.entries
        return g.op("Reshape", matrix, g.sizes(-1, self.several * entries, given))

    def tap(self, g: GraphBuilder, row: int, column: int) -> str:
        """The weights of a tap, (channels x several, 1, 1)."""
        flat, index = g.op("Flatten", self.weight, axis=1), row * self.geometry.kernel[1] + column
        return g.op("Unsqueeze", g.op("Slice", flat, g.sizes(index), g.sizes(index + 1), g.sizes(1)), g.sizes(2))

    def tap_by_tap(self, g: GraphBuilder) -> str:
        """Sum over taps of what they read, times their weight."""
        geometry, images, terms = self.geometry, self.images(g), []
        if self.several > 1:
            repeated = g.op("Expand", g.op("Unsqueeze", images, g.sizes(2)), g.sizes(self.several, 1, 1))
            images = g.op("Reshape", repeated, g.op("Concat", _batch(g, images), g.sizes(-1, *geometry.image), axis=0))
        for row, column in self.live_taps:
            read = images
            for axis, tap in enumerate((row, column)):
                read = _read_through(g, read, geometry, axis, tap)
            terms.append(g.op("Mul", read, self.tap(g, row, column)))
        return g.op("Sum", *terms)

    def scatter_taps(self, g: GraphBuilder, dy: str) -> str:
        """Sum over taps and outputs of a channel of deltas times weights, back at what the taps read."""
        geometry, terms = self.geometry, []
        spread = _spread(g, dy, geometry)
        sizes = [(size - 1) * stride + 1 for size, stride in zip(geometry.output, geometry.strides, strict=True)]
        for row, column in self.live_taps:
            term = g.op("Mul", spread, self.tap(g, row, column))
            for axis, tap in enumerate((row, column)):
                offset = int(geometry.read(axis)[tap, 0])
                term = pad_axis(g, term, 2, axis, (offset, geometry.image[axis] - sizes[axis] - offset))
            terms.append(term)
        result = g.op("Sum", *terms)
        if self.several == 1:
            return result
        split = g.op("Reshape", result, g.sizes(0, -1, self.several, prod(geometry.image)))
        return g.op("ReduceSum", split, g.sizes(2), keepdims=0)

    def shifted_products(self, g: GraphBuilder, dy: str) -> str:
        """Rows under the kernel times deltas moved to each column: (examples, channels x several, taps)."""
        geometry, images = self.geometry, self.images(g)
        (height, width), length = geometry.kernel, geometry.output[0] * geometry.image[1]
        index = geometry.read(0)
        inside = (index >= 0) & (index < geometry.image[0])
        if not inside.all():
            images = pad_axis(g, images, 2, 0, (0, 1))
        rows = g.op("Gather", images, g.constant(np.where(inside, index, geometry.image[0]).ravel(), np.int64), axis=2)
        rows = g.op("Transpose", g.op("Reshape", rows, g.sizes(0, 0, height, length)), perm=[0, 1, 3, 2])
        deltas = g.op("Reshape", dy, g.sizes(0, 0, *geometry.output))
        spare, products = geometry.image[1] - geometry.output[1], []
        for offset in geometry.read(1)[:, 0].tolist():
            moved = pad_axis(g, deltas, 2, 1, (offset, spare - offset))
            moved = g.op("Reshape", moved, g.sizes(0, -1, self.several, length))
            products.append(g.op("Unsqueeze", g.op("MatMul", moved, rows), g.sizes(4)))
        return g.op("Reshape", g.op("Concat", *products, axis=4), g.sizes(0, -1, height * width))

    def gathered_products(self, g: GraphBuilder, dy: str) -> str:
        """Pixels gathered in the order of taps and positions, channels last, times deltas: as `shifted_products`."""
        geometry = self.geometry
        image = g.op("Reshape", self._source, g.sizes(-1, prod(geometry.image)))
        image = g.op("Pad", g.op("Transpose", image, perm=[1, 0]), g.sizes(0, 0, 1, 0))
        read = g.op("Gather", image, g.constant(_pixel_indices(geometry), np.int64), axis=0)
        deltas = g.op("Reshape", dy, g.sizes(-1, self.several, geometry.positions))
        products = g.op("Mul", g.op("Unsqueeze", read, g.sizes(3)), g.op("Transpose", deltas, perm=[2, 0, 1]))
        taps = g.op("Transpose", g.op("ReduceSum", products, g.sizes(1), keepdims=0), perm=[1, 2, 0])
        return g.op("Reshape", taps, g.op("Concat", _batch(g, self._source), g.sizes(-1, geometry.taps), axis=0))


def _batch(g: GraphBuilder, name: str) -> str:
    return g.op("Slice", g.op("Shape", name), g.sizes(0), g.sizes(1))


def _pixel_indices(geometry: Geometry) -> NDArray[np.int64]:
    """Flat index of the pixel for each tap and position, (taps, positions); the pixel after the last for padding."""
    (height, width), (rows, columns) = geometry.image, (geometry.read(0), geometry.read(1))
    inside = ((rows >= 0) & (rows < height))[:, None, :, None] & ((columns >= 0) & (columns < width))[None, :, None, :]
    flat = rows[:, None, :, None] * width + columns[None, :, None, :]
    return np.where(inside, flat, height * width).reshape(geometry.taps, geometry.positions)


def _read_through(g: GraphBuilder, images: str, geometry: Geometry, axis: int, tap: int) -> str:
    """What each output reads along an axis through a tap."""
    start, stride = int(geometry.read(axis)[tap, 0]), geometry.strides[axis]
    length = (geometry.output[axis] - 1) * stride + 1
    moved = pad_axis(g, images, 2, axis, (-start, start + length - geometry.image[axis]))
    if stride == 1:
        return moved
    return g.op("Slice", moved, g.sizes(0), g.sizes(length), g.sizes(axis + 2), g.sizes(stride))


def _spread(g: GraphBuilder, dy: str, geometry: Geometry) -> str:
    """Deltas, (examples, channels x several, height, width), with zeros in between, as far apart as the strides."""
    (height, width), (down, across) = geometry.output, geometry.strides
    if down == across == 1:
        return g.op("Reshape", dy, g.sizes(0, 0, height, width))
    apart = g.op("Reshape", dy, g.sizes(0, -1, height, 1, width, 1))
    apart = g.op("Pad", apart, g.sizes(*[0] * 9, down - 1, 0, across - 1))
    apart = g.op("Reshape", apart, g.sizes(0, -1, height * down, width * across))
    apart = pad_axis(g, apart, 2, 0, (0, 1 - down))
    return pad_axis(g, apart, 2, 1, (0, 1 - across))
