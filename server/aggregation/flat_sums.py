"""Sums of float32 entries times a factor, in float64, at their places in a flat model.

Entries are done `_TOGETHER` at a time, so that their products are still in the processor's cache when they are added:
those of a large contribution in parts, those of small ones joined, as these cost calls and not arithmetic. Entries of
sub-models are added by the kernel of SciPy's product of a sparse matrix, of one column, and a vector, of one element,
1: it adds to what is there, entry by entry, at half the cost of `numpy.add.at`. The public product would begin with
zeros, as long as the whole model. Where one sub-model comes again and again, as in a cohort, its sums are taken out at
the second time and put back when another comes: what is between them is added end to end.

However entries are cut and joined, at every place products are added one after the other in the order in which they
came, and each product and each sum is rounded once: the bits are those of entries added one by one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse._sparsetools import csc_matvec

from server.aggregation.flat_model import FlatModel

_TOGETHER = 2**15

Positions = NDArray[Any]
Values = NDArray[np.float32]
Sums = NDArray[np.float64]


class FlatSums:
    """Sums, from 0, of all entries of a flat model; `total` is them."""

    def __init__(self, flat: FlatModel) -> None:
        self._total = np.zeros(flat.size)
        self._products = np.empty(_TOGETHER)
        self._one = np.ones(1)
        self._column = np.zeros(2, dtype=flat.dtype)
        self._last: Positions | None = None
        self._taken: Sums | None = None
        self._positions: list[Positions] = []
        self._values: list[Values] = []
        self._factors: list[float] = []
        self._waiting = 0

    @property
    def total(self) -> Sums:
        """The sums so far."""
        self.add_waiting()
        self._put_back()
        return self._total

    def add(self, positions: Positions | None, values: Values, factor: float) -> None:
        """Add `factor` times the values at the positions, ascending; None for all, in their order.

        Neither may change until `add_waiting` or `total`.
        """
        if positions is None:
            self._add_all(self.total, values, factor)
            return
        if self._waiting + len(values) > _TOGETHER:
            self.add_waiting()
        self._positions.append(positions)
        self._values.append(values)
        self._factors.append(factor)
        self._waiting += len(values)
        if self._waiting > _TOGETHER // 2:
            self.add_waiting()

    def add_waiting(self) -> None:
        """Add what waits for others to be added together with."""
        placed, values, factors = self._positions, self._values, self._factors
        self._positions, self._values, self._factors, self._waiting = [], [], [], 0
        if len(placed) == 1:
            self._add_one(placed[0], values[0], factors[0])
        elif placed and all(positions is placed[0] for positions in placed):
            sums = self._taken_out(placed[0])
            for products in self._rows(values, factors):
                sums += products
        elif placed:
            self._put_back()
            rows = self._rows(values, factors)
            self._add_at(np.concatenate(placed), self._products[: sum(map(len, rows))])
            self._last = placed[-1]

    def _add_one(self, positions: Positions, values: Values, factor: float) -> None:
        """Which may be larger than what is done together."""
        if positions is self._last:
            self._add_all(self._taken_out(positions), values, factor)
            return
        self._put_back()
        for start in range(0, len(values), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            self._add_at(positions[part], self._times(values[part], factor))
        self._last = positions

    def _taken_out(self, positions: Positions) -> Sums:
        if self._taken is None or positions is not self._last:
            self._put_back()
            self._last, self._taken = positions, self._total[positions]
        return self._taken

    def _put_back(self) -> None:
        if self._taken is not None:
            self._total[self._last] = self._taken
        self._last = self._taken = None

    def _add_all(self, sums: Sums, values: Values, factor: float) -> None:
        for start in range(0, len(values), _TOGETHER):
            part = slice(start, start + _TOGETHER)
            sums[part] += self._times(values[part], factor)

    def _add_at(self, positions: Positions, products: Sums) -> None:
        self._column[1] = len(products)
        csc_matvec(len(self._total), 1, self._column, positions, products, self._one, self._total)

    def _times(self, values: Values, factor: float) -> Sums:
        products = self._products[: len(values)]
        np.copyto(products, values)
        np.multiply(products, factor, out=products)
        return products

    def _rows(self, values: Sequence[Values], factors: Sequence[float]) -> list[Sums]:
        """Products of each, end to end in `_products`."""
        np.concatenate(values, out=self._products[: sum(map(len, values))])
        rows, start = [], 0
        for one, factor in zip(values, factors, strict=True):
            row = self._products[start : start + len(one)]
            row *= factor
            rows.append(row)
            start += len(one)
        return rows
