"""Norm bounding (Sun, Kairouz, Suresh and McMahan 2019, "Can You Really Backdoor Federated Learning?", section 3).

A difference x whose L2 norm exceeds the bound M is shrunk to it, x min(1, M / |x|), before any rule sees it: however
large the numbers a device sends, it moves the model no further than M. The norm is that of the sub-model's entries, all
parameters together, so a narrow device, whose differences are shorter, is bounded less tightly than a wide one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import isfinite, sqrt

import numpy as np

from server.aggregation.contribution import Contribution, Contributions
from server.aggregation.rule import Aggregate, AggregationRule
from wire_protocol.errors import require
from wire_protocol.flat_arrays import sent_entries
from wire_protocol.sub_model import Arrays


@dataclass(frozen=True)
class NormBounded:
    """Any rule, on differences of norm at most `bound`, a finite number above 0. See `AggregationRule`."""

    rule: AggregationRule
    bound: float

    def __post_init__(self) -> None:
        require(self.bound > 0 and isfinite(self.bound), "norm_bound", self.bound, "above 0 and finite")

    def aggregate(self, contributions: Contributions) -> Aggregate:
        """See `AggregationRule`."""
        return self.rule.aggregate(_Bounded(contributions, self.bound))


@dataclass(frozen=True)
class _Bounded:
    contributions: Contributions
    bound: float

    def __len__(self) -> int:
        return len(self.contributions)

    def __iter__(self) -> Iterator[Contribution]:
        for one in self.contributions:
            norm = l2_norm(one.values)
            yield replace(one, scale=one.scale * self.bound / norm) if norm > self.bound else one


def l2_norm(values: Arrays) -> float:
    """Of all arrays together, summed in float64."""
    return sqrt(sum(float(np.square(array, dtype=np.float64).sum()) for array in sent_entries(values)))
