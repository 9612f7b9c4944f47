"""Sums of float32 entries times a factor, in float64, at their places in a flat model.

Entries are done `_TOGETHER` at a time, so that their products are still in the processor's cache when they are added.
Those of a sub-model are added by the kernel of SciPy's product of a sparse matrix, of one column, and a vector, of one
element, 1: it adds to what is there, entry by entry, at half the cost of `numpy.add.at`. The public product would
begin with zeros, as long as the whole model. Where one sub-model comes again and again, as in a cohort, its sums are
taken out at the second time and put back when another comes: what is between them is added end to end.
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
        self._total = np.zeros(flat.size)
        self._products = np.empty(_TOGETHER)
        self._one = np.ones(1)
        self._column = np.zeros(2, dtype=flat.dtype)
        self._last: NDArray[Any] | None = None
        self._taken: Sums | None = None

    @property
    def total(self) -> Sums:
        """The sums so far."""
        self._put_back()
        return self._total

    def add(self, placement: Placement, values: Values, factor: float) -> None:
        """Add `factor` times the placed values."""
        if placement.positions is None:
            self._add_all(self.total, values, factor)
            return
        if placement.positions is not self._last:
            self._put_back()
            self._add_at(placement.positions, values, factor)
            self._last = placement.positions
            return
        if self._taken is None:
            self._taken = self._total[placement.positions]
        self._add_all(self._taken, values, factor)

    def _put_back(self) -> None:
        if self._taken is not None:
            self._total[self._last] = self._taken
        self._last = self._taken = None

    def _add_all(self, sums: Sums, values: Values, factor: float) -> None:
        for start in range(0, len(values), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            sums[part] += self._times(values[part], factor)

    def _add_at(self, positions: NDArray[Any], values: Values, factor: float) -> None:
        for start in range(0, len(values), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            products = self._times(values[part], factor)
            self._column[1] = len(products)
            csc_matvec(len(self._total), 1, self._column, positions[part], products, self._one, self._total)

    def _times(self, values: Values, factor: float) -> Sums:
        products = self._products[: len(values)]
        np.copyto(products, values)
        np.multiply(products, factor, out=products)
        return products
