"""Coordinate-wise median (Yin, Chen, Ramchandran and Bartlett 2018, definition 1), over those who trained a coordinate.

Of an even number of values it is the mean of the middle two. Fewer than half of the devices that trained a coordinate,
sending anything at all, cannot move it out of the range of the honest ones. It is slower to learn than the mean where
devices' data differ: what only few of them know is an extreme to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.contribution import Contributions
from server.aggregation.coordinate_wise import DEFAULT_BUDGET_BYTES, by_coordinate
from server.aggregation.rule import Aggregate
from wire_protocol.layout import Layout


@dataclass(frozen=True)
class Median:
    """See `AggregationRule`; one pass for each budget of memory."""

    budget_bytes: int = DEFAULT_BUDGET_BYTES

    def aggregate(self, layout: Layout, contributions: Contributions) -> Aggregate:
        """See `AggregationRule`."""
        return by_coordinate(layout, contributions, _median, self.budget_bytes)


def _median(ascending: NDArray[np.float32]) -> NDArray[Any]:
    count = ascending.shape[1]
    return ascending[:, (count - 1) // 2 : count // 2 + 1].mean(axis=1, dtype=np.float64)
