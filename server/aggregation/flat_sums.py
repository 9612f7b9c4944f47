"""Sums of float32 entries times a factor, in float64, at their places in a flat model.

Entries are done `_TOGETHER` at a time, so that their products are still in the processor's cache when they are added.
Those of a sub-model are added by the kernel of SciPy's product of a sparse matrix, of one column, and a vector, of one
element, 1: it adds to what is there, entry by entry, at half the cost of `numpy.add.at`. The public product would
begin with zeros, as long as the whole model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse._sparsetools import csc_matvec

from server.aggregation.flat_model import FlatModel, Placement

_TOGETHER = 2**15

Values = NDArray[np.float32]
Sums = NDArray[np.float64]


class FlatSums:
    """Sums, from 0, of all entries of a flat model; `total` is them."""

    def __init__(self, flat: FlatModel) -> None:
        self._products = np.empty(_TOGETHER)
        self._one = np.ones(1)
        self.total = np.zeros(flat.size)

    def add(self, placement: Placement, values: Values, factor: float) -> None:
        """Add `factor` times the placed values."""
        for start in range(0, len(values), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            products = self._times(values[part], factor)
            if placement.positions is None:
                self.total[part] += products
            else:
                self._add_at(placement.positions[part], products)

    def _add_at(self, positions: NDArray[Any], products: Sums) -> None:
        column = np.array((0, len(products)), dtype=positions.dtype)
        csc_matvec(len(self.total), 1, column, positions, products, self._one, self.total)

    def _times(self, values: Values, factor: float) -> Sums:
        products = self._products[: len(values)]
        np.copyto(products, values)
        np.multiply(products, factor, out=products)
        return products
