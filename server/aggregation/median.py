"""Coordinate-wise median (Yin, Chen, Ramchandran and Bartlett 2018, definition 1), over those who trained a coordinate.

Of an even number of values it is the mean of the middle two. Fewer than half of the devices that trained a coordinate,
sending anything at all, cannot move it out of the range of the honest ones. It is slower to learn than the mean where
devices' data differ: what only few of them know is an extreme to it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.contribution import Contributions
from server.aggregation.coordinate_wise import DEFAULT_BUDGET_BYTES, by_coordinate
from server.aggregation.flat_model import FlatModel
from server.aggregation.rule import Aggregate
from wire_protocol.layout import Layout


class Median:
    """See `AggregationRule`; one pass for each budget of memory."""

    def __init__(self, layout: Layout, budget_bytes: int = DEFAULT_BUDGET_BYTES) -> None:
        self._flat = FlatModel(layout)
        self._budget_bytes = budget_bytes

    def aggregate(self, contributions: Contributions) -> Aggregate:
        """See `AggregationRule`."""
        return by_coordinate(self._flat, contributions, _median, self._budget_bytes)


def _median(ascending: NDArray[np.float32]) -> NDArray[Any]:
    count = ascending.shape[1]
    median: NDArray[Any] = ascending[:, (count - 1) // 2 : count // 2 + 1].mean(axis=1, dtype=np.float64)
    return median
