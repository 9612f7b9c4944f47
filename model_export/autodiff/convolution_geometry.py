"""Spatial sizes of convolutions, and constants that select entries by them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from model_export.autodiff.registry import Node


@dataclass(frozen=True)
class Geometry:
    """Spatial sizes of a convolution from `image` to `output`; `pads` has all begins, then all ends, as in ONNX."""

    image: tuple[int, ...]
    kernel: tuple[int, ...]
    output: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]

    @property
    def rank(self) -> int:
        """Number of spatial axes."""
        return len(self.kernel)

    @property
    def taps(self) -> int:
        """Entries of the kernel for one pair of channels."""
        return prod(self.kernel)

    @property
    def positions(self) -> int:
        """Entries of the output for one channel."""
        return prod(self.output)

    @property
    def reach(self) -> tuple[int, ...]:
        """Entries from the first tap to the last, along each axis."""
        return tuple((size - 1) * dilation for size, dilation in zip(self.kernel, self.dilations, strict=True))

    @property
    def is_pointwise(self) -> bool:
        """Whether each output reads one pixel of the image, and none is read twice."""
        return self.taps == 1 and not any(self.pads)

    @property
    def can_shift(self) -> bool:
        """Whether all taps are shifts by whole entries that leave something of image and output."""
        if self.is_pointwise:
            return True
        if self.rank > 2 or any(stride > 1 for stride in self.strides):
            return False
        return all(
            -self.output[axis] < offset < self.image[axis] for axis in range(self.rank) for offset in self.offsets(axis)
        )

    def offsets(self, axis: int) -> list[int]:
        """Where the first output reads along the image through each tap; padding is below 0."""
        return [tap * self.dilations[axis] - self.pads[axis] for tap in range(self.kernel[axis])]

    @property
    def left_over(self) -> list[int]:
        """Entries of the image behind the last window, along each axis; the `output_padding` of the transposed one."""
        reached = [(output - 1) * stride for output, stride in zip(self.output, self.strides, strict=True)]
        return [
            self.image[axis]
            - (reached[axis] + (self.kernel[axis] - 1) * self.dilations[axis] + 1)
            + self.pads[axis]
            + self.pads[axis + self.rank]
            for axis in range(self.rank)
        ]

    def lifted(self) -> Geometry:
        """The same over two axes, the first of size 1, where there is one axis only."""
        if self.rank != 1:
            return self
        image, kernel, output = ((1, *side) for side in (self.image, self.kernel, self.output))
        begin, end = self.pads
        return Geometry(image, kernel, output, (1, *self.strides), (1, *self.dilations), (0, begin, 0, end))

    def read(self, axis: int) -> NDArray[np.int64]:
        """Index along the image that each output reads through each tap, (kernel, output); outside it is padding."""
        return np.asarray(self.offsets(axis))[:, None] + np.arange(self.output[axis]) * self.strides[axis]

    def selection(self, axis: int) -> NDArray[np.float32]:
        """1 where an output reads an image's entry through a tap, else 0: float32 (kernel, image, output)."""
        entries = np.arange(self.image[axis])[:, None]
        found: NDArray[np.float32] = (self.read(axis)[:, None, :] == entries).astype(np.float32)
        return found


def geometry_of(node: Node) -> Geometry:
    """Read a Conv node's geometry."""
    return _geometry(node, node.shape(node.inputs[0])[2:], node.shape(node.output)[2:])


def transposed_geometry_of(node: Node) -> Geometry:
    """The geometry of the convolution that a ConvTranspose node is the transpose of."""
    return _geometry(node, node.shape(node.output)[2:], node.shape(node.inputs[0])[2:])


def _geometry(node: Node, image: tuple[int, ...], output: tuple[int, ...]) -> Geometry:
    kernel = node.shape(node.inputs[1])[2:]
    rank = len(kernel)
    strides = tuple(node.attribute("strides", [1] * rank))
    dilations = tuple(node.attribute("dilations", [1] * rank))
    pads = tuple(node.attribute("pads", [0] * 2 * rank))
    return Geometry(image, kernel, output, strides, dilations, pads)
