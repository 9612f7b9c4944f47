"""Sums of float32 entries times a factor, in float64, at their places in a flat model.

Entries are done `_TOGETHER` at a time, so that their products are still in the processor's cache when they are added.
Dense blocks are taken out of the sums, added to and put back: as items of a type as large as a block each move is one
copy of memory, and one position is read for a block. Single entries are added by `numpy.add.at`, which costs half of
`sums[positions] += products`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.flat_model import FlatModel, Placement

_TOGETHER = 2**14

Values = NDArray[np.float32]
Sums = NDArray[np.float64]


class FlatSums:
    """Sums, from 0, of all entries of a flat model; `total` is them."""

    def __init__(self, flat: FlatModel) -> None:
        self._parts = flat.parts
        self._together = max(_TOGETHER, *(part.block for part in flat.parts))
        self._products = np.empty(self._together)
        self._taken = np.empty(self._together)
        self._where = np.empty(self._together, dtype=np.intp)
        self.total = np.zeros(flat.size)

    def add(self, placement: Placement, values: Values, factor: float) -> None:
        """Add `factor` times the placed values."""
        if placement.spans is None:
            self._add_all(values, factor)
            return
        for part, span in zip(self._parts, placement.spans, strict=True):
            sums, sent = self.total[part.full], values[span.sent]
            if part.block == 1:
                self._add_entries(sums, span.blocks, sent, factor)
            else:
                self._add_blocks(sums, span.blocks, sent, factor)

    def _add_all(self, values: Values, factor: float) -> None:
        for start in range(0, len(values), self._together):
            part = slice(start, start + self._together)
            self.total[part] += self._times(values[part], factor)

    def _add_entries(self, sums: Sums, places: NDArray[Any], values: Values, factor: float) -> None:
        for start in range(0, len(places), self._together):
            part = slice(start, start + self._together)
            np.add.at(sums, self._indices(places[part]), self._times(values[part], factor))

    def _add_blocks(self, sums: Sums, places: NDArray[Any], values: Values, factor: float) -> None:
        block = len(values) // len(places)
        item = np.dtype((np.void, block * sums.itemsize))
        blocks, together = sums.view(item), self._together // block
        for start in range(0, len(places), together):
            where = self._indices(places[start : start + together])
            products = self._times(values[start * block : (start + together) * block], factor)
            taken = self._taken[: len(products)]
            np.take(blocks, where, out=taken.view(item), mode="clip")
            np.add(taken, products, out=taken)
            blocks[where] = taken.view(item)

    def _indices(self, places: NDArray[Any]) -> NDArray[np.intp]:
        where = self._where[: len(places)]
        np.copyto(where, places)
        return where

    def _times(self, values: Values, factor: float) -> Sums:
        products = self._products[: len(values)]
        np.copyto(products, values)
        np.multiply(products, factor, out=products)
        return products
