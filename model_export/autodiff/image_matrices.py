"""Convolution of each channel by itself on small maps: one (Toeplitz) matrix a channel, from the image to the output.

Mostly zeros, but dense products are so much faster that it pays up to `WHOLE_IMAGE` entries. Transposes stand right
before products, into which onnxruntime fuses them. Images are (examples, channels, *image), outputs (examples,
channels x several, *output), over any number of spatial axes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from math import prod

import numpy as np

from model_export.autodiff.builder import GraphBuilder
from model_export.autodiff.convolution_geometry import Geometry

WHOLE_IMAGE = 6_000
"""Entries of a channel's matrix up to which products with it are faster than with matrices of some rows."""


@dataclass(frozen=True)
class ImageMatrices:
    """The matrices of a layer with this weight, (channels x several, 1, *kernel)."""

    weight: str
    geometry: Geometry
    several: int

    @property
    def fits(self) -> bool:
        """Whether the matrices are small enough."""
        return prod(self.geometry.image) * self.geometry.positions <= WHOLE_IMAGE

    def forward(self, g: GraphBuilder, images: str) -> str:
        """The output without bias."""
        rows = g.op("MatMul", self._pixels(g, images, [1, 0, 2]), self._matrices(g))
        return g.op("Reshape", g.op("Transpose", rows, perm=[1, 0, 2]), g.sizes(0, -1, *self.geometry.output))

    def input_gradient(self, g: GraphBuilder, dy: str) -> str:
        """DX."""
        turned = g.op("Transpose", self._matrices(g), perm=[0, 2, 1])
        rows = g.op("MatMul", self._deltas(g, dy), turned)
        return g.op("Reshape", g.op("Transpose", rows, perm=[1, 0, 2]), g.sizes(0, -1, *self.geometry.image))

    def weight_gradient(self, g: GraphBuilder, images: str, dy: str) -> str:
        """Each tap's entries of the gradient of the matrices."""
        products = g.op("MatMul", self._pixels(g, images, [1, 2, 0]), self._deltas(g, dy))
        pixels, positions = prod(self.geometry.image), self.geometry.positions
        if self.several > 1:
            split = g.op("Reshape", products, g.sizes(-1, pixels, self.several, positions))
            products = g.op("Transpose", split, perm=[0, 2, 1, 3])
        taps = g.op("Transpose", self._selection(g), perm=[1, 0])
        gradient = g.op("MatMul", g.op("Reshape", products, g.sizes(-1, pixels * positions)), taps)
        return g.op("Reshape", gradient, g.op("Shape", self.weight))

    def _pixels(self, g: GraphBuilder, images: str, order: list[int]) -> str:
        flat = g.op("Reshape", images, g.sizes(0, -1, prod(self.geometry.image)))
        return g.op("Transpose", flat, perm=order)

    def _deltas(self, g: GraphBuilder, dy: str) -> str:
        flat = g.op("Reshape", dy, g.sizes(0, -1, self.several * self.geometry.positions))
        return g.op("Transpose", flat, perm=[1, 0, 2])

    def _matrices(self, g: GraphBuilder) -> str:
        """(channels, pixels, several x positions)."""
        pixels, positions = prod(self.geometry.image), self.geometry.positions
        taps = g.op("Reshape", self.weight, g.sizes(-1, self.geometry.taps))
        entries = g.op("MatMul", taps, self._selection(g))
        if self.several > 1:
            split = g.op("Reshape", entries, g.sizes(-1, self.several, pixels, positions))
            entries = g.op("Transpose", split, perm=[0, 2, 1, 3])
        return g.op("Reshape", entries, g.sizes(-1, pixels, self.several * positions))

    def _selection(self, g: GraphBuilder) -> str:
        """(taps, pixels x positions), 1 where a position reads a pixel through a tap. Multiplied out on loading."""
        rank, factors = self.geometry.rank, []
        for axis in range(rank):
            shape = np.ones((3, rank), np.int64)
            chosen = self.geometry.selection(axis)
            shape[:, axis] = chosen.shape
            factors.append(g.constant(chosen.reshape(shape.ravel())))
        outer = reduce(lambda left, right: g.op("Mul", left, right), factors)
        return g.op("Reshape", outer, g.sizes(self.geometry.taps, prod(self.geometry.image) * self.geometry.positions))
