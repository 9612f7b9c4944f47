"""Blocks of rows of a depthwise convolution: which rows are taken for which, and the matrices between them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry
from model_export.autodiff.weight_products import pad_axis

WIDE_ENOUGH = 32
"""Columns up to which a matrix gives more rows of the output at once."""


@dataclass(frozen=True)
class RowBlocks:
    """How rows are computed from rows, `given` at a time.

    `taken` (blocks, rows) are the rows that each block takes, zeros outside 0 ... `height` - 1; `taps` (kernel height,
    rows taken, rows given) is 1 where a tap joins two of them; `columns` (kernel width, width taken, width given) is
    the same along rows. `total` rows are given.
    """

    height: int
    total: int
    taken: NDArray[np.int64]
    taps: NDArray[np.float32]
    columns: NDArray[np.float32]

    @property
    def entries(self) -> tuple[int, int]:
        """Rows and columns of a channel's matrix."""
        return self.taps.shape[1] * self.columns.shape[1], self.taps.shape[2] * self.columns.shape[2]

    def selection(self, g: GraphBuilder) -> str:
        """(taps, entries of the matrix by row): 1 where an entry is a tap. Multiplied out when the graph is loaded."""
        factors = self.taps[:, None, :, None, :, None], self.columns[None, :, None, :, None, :]
        outer = g.op("Mul", *(g.constant(factor) for factor in factors))
        taps = self.taps.shape[0] * self.columns.shape[0]
        return g.op("Reshape", outer, g.sizes(taps, prod(self.entries)))

    def gather(self, g: GraphBuilder, images: str, several: int) -> str:
        """What blocks take: (channels, examples x blocks, several x rows x width).

        `images` are (channels, examples, several x height, width).
        """
        own = np.arange(several)[:, None] * self.height
        inside = (self.taken >= 0) & (self.taken < self.height)
        index = np.where(inside[:, None, :], self.taken[:, None, :] + own, several * self.height).ravel()
        if not np.array_equal(index, np.arange(several * self.height)):
            if not inside.all():
                images = pad_axis(g, images, 2, 0, (0, 1))
            images = g.op("Gather", images, g.constant(index, np.int64), axis=2)
        return g.op("Reshape", images, g.sizes(0, -1, several * self.entries[0]))


def blocks_onwards(geometry: Geometry) -> RowBlocks:
    """From rows of the image to rows of the output."""
    height, total = geometry.image[0], geometry.output[0]
    given = max(n for n in _divisors(total) if n == 1 or n * geometry.output[1] <= WIDE_ENOUGH)
    offsets = np.arange(geometry.kernel[0]) * geometry.dilations[0] - geometry.pads[0]
    reads = offsets[:, None] + np.arange(given) * geometry.strides[0]
    rows = _rows(reads)
    taken = rows + np.arange(0, total, given)[:, None] * geometry.strides[0]
    taps = (reads[:, None, :] == rows[:, None]).astype(np.float32)
    return RowBlocks(height, total, taken, taps, geometry.selection(1))


def blocks_back(geometry: Geometry) -> RowBlocks:
    """From rows of the output to rows of the image; blocks are as high as strides, or several of them."""
    height, total, stride = geometry.output[0], geometry.image[0], geometry.strides[0]
    strides = -(-total // stride)
    fit = [n for n in _divisors(strides) if n == 1 or n * stride * geometry.image[1] <= WIDE_ENOUGH]
    given = max(fit) * stride
    reached = np.arange(given) + geometry.pads[0] - np.arange(geometry.kernel[0])[:, None] * geometry.dilations[0]
    readers = np.where(reached % stride == 0, reached // stride, np.iinfo(np.int64).min)
    rows = _rows(readers[reached % stride == 0])
    taken = rows + np.arange(0, total, given)[:, None] // stride
    taps = (readers[:, None, :] == rows[:, None]).astype(np.float32)
    return RowBlocks(height, total, taken, taps, geometry.selection(1).transpose(0, 2, 1))


def _rows(read: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows that are read; one at least."""
    return np.unique(read) if read.size else np.zeros(1, np.int64)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]
