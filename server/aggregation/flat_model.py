"""A layout's parameters end to end as one vector, and where a sub-model's entries stand in it.

One vector instead of one array a parameter: small models have dozens of parameters of a few hundred entries, and then
calls cost more than the arithmetic. Entries of a sub-model, taken in wire order, stand at ascending positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import Arrays, Indices, SubModel, positions_along, sub_shapes

_REMEMBERED_ENTRIES = 2**23
"""Positions remembered: 32 MB. Devices keep their selection for several rounds, and those of a cohort share one."""


@dataclass(frozen=True)
class Placement:
    """Shapes of a sub-model's arrays, and the ascending positions of its entries; None when it is the whole model.

    Positions are int32, or int64 for models of 2^31 entries and more: reading them is much of an addition's cost.
    """

    shapes: Mapping[str, tuple[int, ...]]
    positions: NDArray[Any] | None


class FlatModel:
    """The flat form of `layout`; `size` is its number of entries."""

    def __init__(self, layout: Layout) -> None:
        self._placements: dict[bytes, Placement] = {}
        self._used: set[bytes] = set()
        self._remembered = 0
        self._strides = {parameter.name: _strides(parameter) for parameter in layout.parameters}
        self.layout = layout
        self.size = layout.element_count

    def place(self, sub_model: SubModel) -> Placement:
        """Where the sub-model's entries stand."""
        key = b"".join(sub_model.kept[group.name].tobytes() + b"|" for group in self.layout.groups)
        self._used.add(key)
        placement = self._placements.get(key)
        if placement is None:
            placement = self._place(sub_model)
            entries = 0 if placement.positions is None else len(placement.positions)
            if self._remembered + entries <= _REMEMBERED_ENTRIES:
                self._placements[key] = placement
                self._remembered += entries
        return placement

    def forget_unused(self) -> None:
        """Forget selections not placed since the last call: a round begins, and devices may have chosen afresh."""
        self._placements = {key: self._placements[key] for key in self._placements.keys() & self._used}
        self._used.clear()
        self._remembered = sum(
            len(placement.positions) for placement in self._placements.values() if placement.positions is not None
        )

    def flatten(self, placement: Placement, values: Arrays) -> NDArray[np.float32]:
        """The entries of a sub-model's float32 arrays end to end; raises `InvalidValueError` on a wrong shape."""
        for name, shape in placement.shapes.items():
            if values[name].shape != shape:
                require(False, f"shape of {name}", values[name].shape, f"{shape}")
        return np.concatenate([values[name].ravel() for name in placement.shapes], dtype=np.float32)

    def split(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views of a vector of `size` entries, by name and in the parameters' shapes."""
        arrays, offset = {}, 0
        for parameter in self.layout.parameters:
            size = prod(parameter.shape)
            arrays[parameter.name] = flat[offset : offset + size].reshape(parameter.shape)
            offset += size
        return arrays

    def _place(self, sub_model: SubModel) -> Placement:
        shapes = sub_shapes(self.layout, sub_model.widths)
        count = sum(prod(shape) for shape in shapes.values())
        if count == self.size:
            return Placement(shapes, None)
        placed = np.empty(count, dtype=np.int32 if self.size < 2**31 else np.int64)
        offset, filled = 0, 0
        for parameter in self.layout.parameters:
            entries = prod(shapes[parameter.name])
            self._fill(placed[filled : filled + entries], parameter, sub_model, offset)
            offset, filled = offset + prod(parameter.shape), filled + entries
        return Placement(shapes, placed)

    def _fill(self, placed: NDArray[Any], parameter: Parameter, sub_model: SubModel, offset: int) -> None:
        """Positions of a parameter's entries: those along the first axis plus those within one of its rows."""
        along = list(self._strides[parameter.name])
        for cut in parameter.cuts:
            stride = prod(parameter.shape[cut.axis + 1 :])
            along[cut.axis] = positions_along(cut, sub_model.kept[cut.group], parameter.shape[cut.axis]) * stride
        within = np.zeros(1, dtype=np.int64)
        for steps in reversed(along[1:]):
            within = (steps[:, None] + within).ravel()
        first = along[0] + offset if along else np.array([offset])
        rows = placed.reshape(len(first), len(within))
        np.add(first.astype(placed.dtype)[:, None], within.astype(placed.dtype), out=rows)


def _strides(parameter: Parameter) -> tuple[Indices, ...]:
    """Positions along each axis when nothing is cut."""
    return tuple(
        np.arange(size, dtype=np.int64) * prod(parameter.shape[axis + 1 :]) for axis, size in enumerate(parameter.shape)
    )
