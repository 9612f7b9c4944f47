"""A layout's parameters end to end as one vector, and where a sub-model's entries stand in it.

One vector instead of one array a parameter: small models have dozens of parameters of a few hundred entries, and then
calls cost more than the arithmetic. Entries of a sub-model, taken in wire order, stand at ascending positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.kept_positions import KeptPositions
from wire_protocol.errors import require
from wire_protocol.flat_arrays import FlatArrays, SparseArrays, split
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays, SubModel, sub_shapes

_REMEMBERED_POSITIONS = 2**23
"""Positions remembered: 32 MB. Devices keep their selection for several rounds, and those of a cohort share one."""


@dataclass(frozen=True)
class Placement:
    """Shapes of a sub-model's arrays; the positions of its entries, ascending, None when it is the whole model; and for
    each neuron of all groups, end to end, whether it is kept.
    """

    shapes: Mapping[str, tuple[int, ...]]
    positions: NDArray[Any] | None
    kept: NDArray[np.bool_]


class FlatModel:
    """The flat form of `layout`; `size` is its number of entries, `dtype` the integer type of positions."""

    def __init__(self, layout: Layout) -> None:
        self._placements: dict[bytes, Placement] = {}
        self._used: set[bytes] = set()
        self._remembered = 0
        self._shapes = {parameter.name: parameter.shape for parameter in layout.parameters}
        self._kept = KeptPositions(layout.parameters)
        self.layout = layout
        self.size = layout.element_count
        self.dtype = self._kept.dtype

    def place(self, sub_model: SubModel) -> Placement:
        """Where the sub-model's entries stand."""
        key = b"|".join([sub_model.kept[group.name].tobytes() for group in self.layout.groups])
        self._used.add(key)
        placement = self._placements.get(key)
        if placement is None:
            placement = self._place(sub_model)
            if self._remembered + _count(placement) <= _REMEMBERED_POSITIONS:
                self._placements[key] = placement
                self._remembered += _count(placement)
        return placement

    def forget_unused(self) -> None:
        """Forget selections not placed since the last call: a round begins, and devices may have chosen afresh."""
        self._placements = {key: self._placements[key] for key in self._placements.keys() & self._used}
        self._used.clear()
        self._remembered = sum(map(_count, self._placements.values()))

    def flatten(self, placement: Placement, values: Arrays) -> NDArray[np.float32]:
        """The entries of a sub-model's float32 arrays end to end; raises `InvalidValueError` on a wrong shape.

        Shares memory with `values` where these lie end to end already.
        """
        if isinstance(values, FlatArrays) and _fit(values, placement):
            return values.vector
        for name, shape in placement.shapes.items():
            if values[name].shape != shape:
                require(False, f"shape of {name}", values[name].shape, f"{shape}")
        return np.concatenate([values[name].ravel() for name in placement.shapes], dtype=np.float32)

    def entries(self, placement: Placement, values: Arrays) -> tuple[NDArray[Any] | None, NDArray[np.float32]]:
        """The entries that a device sent, end to end, and at which positions; all others of the sub-model are 0.

        Positions are None where it sent the whole model. Raises `InvalidValueError` on a wrong shape.
        """
        if not (isinstance(values, SparseArrays) and _fit(values, placement)):
            return placement.positions, self.flatten(placement, values)
        places = values.places.astype(self.dtype, copy=False)
        return places if placement.positions is None else placement.positions.take(places), values.sent

    def split(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views of a vector of `size` entries, by name and in the parameters' shapes."""
        return split(flat, self._shapes)

    def _place(self, sub_model: SubModel) -> Placement:
        shapes = sub_shapes(self.layout, sub_model.widths)
        whole = shapes == self._shapes
        kept = np.zeros(sum(self.layout.group_sizes.values()), dtype=np.bool_)
        first = 0
        for group in self.layout.groups:
            kept[first + sub_model.kept[group.name]] = True
            first += group.size
        return Placement(shapes, None if whole else self._kept.of(sub_model), kept)


def _fit(values: FlatArrays, placement: Placement) -> bool:
    return values.shapes is placement.shapes or values.shapes == placement.shapes


def _count(placement: Placement) -> int:
    return 0 if placement.positions is None else len(placement.positions)
