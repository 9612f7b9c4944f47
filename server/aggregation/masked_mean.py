"""Weighted mean of sub-model differences by position, as updates stream in.

For every coordinate c of the full model, with S(c) the updates whose sub-model holds c, x their differences and w
their weights::

    mean(c) = sum over S(c) of w x(c) / sum over S(c) of w,      0 where S(c) is empty

so a coordinate is moved only by those that trained it (federated dropout's aggregation; Caldas et al. 2018,
HeteroFL; Diao et al. 2021). With full sub-models this is FedAvg's mean (McMahan et al. 2017).

Precision: sums and weights are float64 and the mean is rounded to float32 once. A float16 or float32 value times an
integer weight is exact in float64, so the order in which updates arrive changes a result by no more than 2^-52 of the
summed magnitudes. Memory is 16 bytes a coordinate, whatever the number of updates.
"""

from __future__ import annotations

from math import isfinite

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import Arrays, SubModel, positions, sub_shapes


class MaskedMean:
    """Streaming accumulator over one layout."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sums = {p.name: np.zeros(p.shape, dtype=np.float64) for p in layout.parameters}
        self._weights = {p.name: np.zeros(p.shape, dtype=np.float64) for p in layout.parameters}
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, sub_model: SubModel, values: Arrays, weight: float) -> None:
        """Add one update: float32 `values` of the sub-model's shapes, `weight` above 0.

        Raises `InvalidValueError` on a weight or shape out of range; then nothing was added.
        """
        require(weight > 0 and isfinite(weight), "weight", weight, "above 0 and finite")
        for name, shape in sub_shapes(self._layout, sub_model.widths).items():
            require(values[name].shape == shape, f"shape of {name}", values[name].shape, f"{shape}")
        for parameter in self._layout.parameters:
            where = _where(parameter, sub_model)
            self._sums[parameter.name][where] += np.multiply(values[parameter.name], weight, dtype=np.float64)
            self._weights[parameter.name][where] += weight
        self._count += 1

    def mean(self) -> dict[str, NDArray[np.float32]]:
        """Full float32 differences; 0 at every coordinate that nobody trained."""
        return {
            name: np.divide(total, self._weights[name], out=np.zeros_like(total), where=self._weights[name] > 0).astype(
                np.float32
            )
            for name, total in self._sums.items()
        }


def _where(parameter: Parameter, sub_model: SubModel) -> tuple[NDArray[np.int64], ...] | tuple[()]:
    """Index of the entries kept; `()`, the whole array, when nothing is cut away (a dense add is 10 times faster)."""
    whole = all(len(sub_model.kept[cut.group]) * cut.entries == parameter.shape[cut.axis] for cut in parameter.cuts)
    return () if whole else positions(parameter, sub_model)
