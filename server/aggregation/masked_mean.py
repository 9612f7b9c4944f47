"""Weighted mean of sub-model differences by position, as contributions stream in.

For every coordinate c of the full model, with S(c) the contributions whose sub-model holds c, x their differences, s
their scales and w their weights::

    mean(c) = sum over S(c) of w s x(c) / sum over S(c) of w,      0 where S(c) is empty

so a coordinate is moved only by those that trained it (federated dropout's aggregation; Caldas et al. 2018,
"Expanding the Reach of Federated Learning by Reducing Client Resource Requirements"; HeteroFL; Diao et al. 2021). With
full sub-models and scales of 1 this is FedAvg's mean (McMahan et al. 2017).

Precision: sums are float64 and the mean is rounded to float32 once. A float32 value times a whole weight up to 2^29 is
exact in float64, times a scale or another weight it is rounded twice; so with n contributions to a coordinate the sum
is within (n + 1) 2^-53 of the summed magnitudes, to first order and whatever the order. Sums of weights are exact. In a
fixed order all is the same bit for bit. Memory is 8 bytes a coordinate, whatever the number of contributions, and
at most 32 MB of positions remembered.

Speed: everything is one vector (`flat_model`), to which a compiled loop adds (`flat_sums`); weights are summed by
neurons and not by entries (`weight_sums`). benchmarks/accumulate.py measures it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from server.aggregation.contribution import Contribution, Contributions
from server.aggregation.flat_model import FlatModel
from server.aggregation.flat_sums import FlatSums
from server.aggregation.rule import Aggregate
from server.aggregation.weight_sums import WeightSums, split_shape
from wire_protocol.layout import Layout


class MaskedMean:
    """Streaming accumulator over one layout."""

    def __init__(self, flat: FlatModel) -> None:
        self._flat = flat
        self._sums = FlatSums(flat)
        self._weights = WeightSums(flat)
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, one: Contribution) -> None:
        """Add one contribution; raises `InvalidValueError` on a wrong shape, and then nothing was added.

        Its values may not change until `add_waiting` or `mean`.
        """
        placement = self._flat.place(one.sub_model)
        positions, values = self._flat.entries(placement, one.values)
        self._sums.add(positions, values, one.weight * one.scale)
        self._weights.add(placement, one.weight)
        self._count += 1

    def add_waiting(self) -> None:
        """Add what waits to be added together with others: until then as much memory is in use as that takes."""
        self._sums.add_waiting()
        self._weights.add_waiting()

    def mean(self) -> Aggregate:
        """The mean of what was added so far."""
        difference: dict[str, NDArray[np.float32]] = {}
        trained: dict[str, NDArray[np.bool_]] = {}
        sums = self._flat.split(self._sums.total)
        for parameter in self._flat.layout.parameters:
            total = sums[parameter.name].reshape(split_shape(parameter))
            behind = self._weights.behind(parameter)
            mean = np.divide(total, behind, out=np.zeros_like(total), where=behind > 0)
            difference[parameter.name] = mean.astype(np.float32).reshape(parameter.shape)
            trained[parameter.name] = np.broadcast_to(behind > 0, total.shape).reshape(parameter.shape)
        return Aggregate(difference, trained)


class WeightedMean:
    """The rule: the masked mean, in one pass."""

    def __init__(self, layout: Layout) -> None:
        self._flat = FlatModel(layout)

    def aggregate(self, contributions: Contributions) -> Aggregate:
        """See `AggregationRule`."""
        self._flat.forget_unused()
        mean = MaskedMean(self._flat)
        for one in contributions:
            mean.add(one)
        return mean.mean()
