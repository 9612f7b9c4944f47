"""Coordinate-wise trimmed mean.

Yin, Chen, Ramchandran and Bartlett 2018, "Byzantine-Robust Distributed Learning: Towards Optimal Statistical Rates",
definition 2.

Of the n values of a coordinate the k smallest and the k largest are left out, and the rest is averaged. Up to k devices
that send anything at all cannot move the result out of the range of the honest ones.

The paper has all n devices at every coordinate and k = trim x n. Here n is the number of devices that trained the
coordinate, often few, so k is rounded up, and never so far that nothing is left: k = min(ceil(trim n), floor((n-1)/2)).
With one or two devices nothing can be trimmed, and the result is their mean.
"""

from __future__ import annotations

from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.contribution import Contributions
from server.aggregation.coordinate_wise import DEFAULT_BUDGET_BYTES, by_coordinate
from server.aggregation.flat_model import FlatModel
from server.aggregation.rule import Aggregate
from wire_protocol.errors import require
from wire_protocol.layout import Layout


class TrimmedMean:
    """Leaves out the fraction `trim`, from 0 up to but not including 0.5, at either end. See `AggregationRule`."""

    def __init__(self, layout: Layout, trim: float, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        require(0 <= trim < 0.5, "trim", trim, "at least 0 and below 0.5")
        self._flat = FlatModel(layout)
        self._trim = trim
        self._budget_bytes = budget_bytes

    def aggregate(self, contributions: Contributions) -> Aggregate:
        """See `AggregationRule`; one pass for each budget of memory."""
        return by_coordinate(self._flat, contributions, self._mean_of, self._budget_bytes)

    def _mean_of(self, ascending: NDArray[np.float32]) -> NDArray[Any]:
        count = ascending.shape[1]
        left_out = trimmed(self._trim, count)
        mean: NDArray[Any] = ascending[:, left_out : count - left_out].mean(axis=1, dtype=np.float64)
        return mean


def trimmed(trim: float, count: int) -> int:
    """How many of `count` values are left out at either end."""
    return min(ceil(round(trim * count, 9)), (count - 1) // 2)
