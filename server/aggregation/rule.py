"""The one protocol of all rules of aggregation: contributions in, what the fleet says of each coordinate out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from server.aggregation.contribution import Contributions


@dataclass(frozen=True)
class Aggregate:
    """The fleet's difference, full float32 arrays by name, and for each coordinate whether anyone trained it.

    Where nobody did the difference is 0, which is not the same as a difference of 0 that somebody sent.
    """

    difference: Mapping[str, NDArray[np.float32]]
    trained: Mapping[str, NDArray[np.bool_]]


class AggregationRule(Protocol):
    """A rule for one layout. Equal contributions in an equal order give equal bits, whatever came before."""

    def aggregate(self, contributions: Contributions) -> Aggregate:
        """Aggregate; may iterate over `contributions` several times, always to the end."""
        ...
