"""Gradients of a convolution's weight as products of images with deltas, for each example or for all together.

With stride 1 a tap's gradient is one matrix product of images and deltas, shifted against each other: the image along
the last axis, the deltas along the one before, so that as many copies are made as the kernel has rows and columns, and
no patches. Otherwise it is a product with patches.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

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

    def assemble(self, g: GraphBuilder, parts: Sequence[str]) -> str:
        """The gradient from sums of parts: of taps (..., filters, channels), or one of (..., filters, fan in)."""
        whole = parts[0]
        if len(parts) > 1:
            whole = g.op("Concat", *(g.op("Reshape", part, g.sizes(-1, 1)) for part in parts), axis=1)
        return g.op("Reshape", whole, g.op("Shape", self.weight))


def weight_gradient(g: GraphBuilder, images: str, dy: str, layer: Layer) -> str:
    """Gradient of the weight, summed over examples, in the weight's shape."""
    activations = layer.geometry.positions * (layer.channels + layer.filters)
    if layer.groups == 1 and layer.fan_in * layer.filters > LARGE_GRADIENT * activations:
        return layer.assemble(g, _products_of_all(g, images, dy, layer))
    parts = weight_gradients_by_example(g, images, dy, layer)
    return layer.assemble(g, [g.op("ReduceSum", part, g.sizes(0), keepdims=0) for part in parts])


def weight_gradients_by_example(g: GraphBuilder, images: str, dy: str, layer: Layer) -> list[str]:
    """Parts of shape (examples, [groups,] filters, entries), as `Layer.assemble` takes their sums."""
    if _can_shift(layer.geometry):
        rows, columns = _shifted(g, images, dy, layer.geometry)
    else:
        rows, columns = [dy], [patches(g, images, layer.geometry)]
    lead, order = ([0, layer.groups, -1], [0, 1, 3, 2]) if layer.groups > 1 else ([0, -1], [0, 2, 1])
    shape = g.sizes(*lead, _length(layer.geometry))
    turned = [g.op("Transpose", g.op("Reshape", column, shape), perm=order) for column in columns]
    matrices = [g.op("Reshape", row, shape) for row in rows]
    return [g.op("MatMul", row, column) for row in matrices for column in turned]


def _products_of_all(g: GraphBuilder, images: str, dy: str, layer: Layer) -> list[str]:
    """One product for each part, over examples and positions together."""
    swap = [1, 0, *range(2, 2 + layer.geometry.rank)]
    if _can_shift(layer.geometry):
        images, dy = (g.op("Transpose", name, perm=swap) for name in (images, dy))
        rows, columns = _shifted(g, images, dy, layer.geometry)
    else:
        rows = [g.op("Transpose", dy, perm=swap)]
        columns = [g.op("Transpose", patches(g, images, layer.geometry), perm=[1, 0, 2])]
    left = [g.op("Flatten", row, axis=1) for row in rows]
    right = [g.op("Flatten", column, axis=1) for column in columns]
    return [g.op("Gemm", row, column, transB=1) for row in left for column in right]


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
    """The pixels that a pointwise convolution reads."""
    axes = [axis for axis in range(geometry.rank) if geometry.strides[axis] > 1]
    if not axes:
        return images
    ends = g.sizes(*(geometry.image[axis] for axis in axes))
    steps = g.sizes(*(geometry.strides[axis] for axis in axes))
    return g.op("Slice", images, g.sizes(*[0] * len(axes)), ends, g.sizes(*(axis + 2 for axis in axes)), steps)


def _offsets(geometry: Geometry, axis: int) -> list[int]:
    return [tap * geometry.dilations[axis] - geometry.pads[axis] for tap in range(geometry.kernel[axis])]


def _can_shift(geometry: Geometry) -> bool:
    """Whether all taps are shifts by whole entries that leave something of both tensors."""
    if geometry.is_pointwise:
        return True
    if geometry.rank > 2 or any(stride > 1 for stride in geometry.strides):
        return False
    return all(
        -geometry.output[axis] < offset < geometry.image[axis]
        for axis in range(geometry.rank)
        for offset in _offsets(geometry, axis)
    )


def _length(geometry: Geometry) -> int:
    """Entries that are summed over in a product for one example."""
    if geometry.rank == 2 and _can_shift(geometry) and not geometry.is_pointwise:
        return geometry.image[0] * geometry.output[1]
    return geometry.positions


def _shifted(g: GraphBuilder, images: str, dy: str, geometry: Geometry) -> tuple[list[str], list[str]]:
    """Deltas for each row of taps and images for each column: the gradient of a tap is the product of a pair."""
    if geometry.is_pointwise:
        return [dy], [_strided(g, images, geometry)]
    last = geometry.rank - 1
    spare = geometry.output[last] - geometry.image[last]
    shifts = [(-offset, spare + offset) for offset in _offsets(geometry, last)]
    columns = [pad_axis(g, images, geometry.rank, last, shift) for shift in shifts]
    if geometry.rank == 1:
        return [dy], columns
    spare = geometry.image[0] - geometry.output[0]
    shifts = [(offset, spare - offset) for offset in _offsets(geometry, 0)]
    return [pad_axis(g, dy, 2, 0, shift) for shift in shifts], columns


def pad_axis(g: GraphBuilder, tensor: str, rank: int, axis: int, pads: tuple[int, int]) -> str:
    """Zeros before and after a spatial axis, or entries off where a number is below 0."""
    if not any(pads):
        return tensor
    both = [0] * (2 * rank + 4)
    both[axis + 2], both[axis + rank + 4] = pads
    return g.op("Pad", tensor, g.sizes(*both))
