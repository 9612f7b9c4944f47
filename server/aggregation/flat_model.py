"""A layout's parameters end to end as one vector, and where a sub-model's entries stand in it.

One vector instead of one array a parameter: small models have dozens of parameters of a few hundred entries, and then
calls cost more than the arithmetic. Entries of a sub-model, taken in wire order, stand at ascending positions.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import Arrays, Indices, SubModel, element_count, positions, sub_shapes

_CACHED_ENTRIES = 2**22
"""Positions remembered of selections seen before: 32 MB. Devices of one cohort share one."""


@dataclass(frozen=True)
class Placement:
    """Shapes of a sub-model's arrays, and the ascending positions of its entries; None when it is the whole model."""

    shapes: Mapping[str, tuple[int, ...]]
    positions: Indices | None


class FlatModel:
    """The flat form of one layout; `size` is its number of entries."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._placements: OrderedDict[bytes, Placement] = OrderedDict()
        self._cached = 0
        self.size = layout.element_count

    def place(self, sub_model: SubModel) -> Placement:
        """Where the sub-model's entries stand."""
        key = b"".join(sub_model.kept[group.name].tobytes() + b"|" for group in self._layout.groups)
        placement = self._placements.pop(key, None)
        if placement is None:
            placement = self._place(sub_model)
            self._cached += _entries(placement)
        self._placements[key] = placement
        while self._cached > _CACHED_ENTRIES:
            self._cached -= _entries(self._placements.popitem(last=False)[1])
        return placement

    def flatten(self, placement: Placement, values: Arrays) -> NDArray[np.float32]:
        """The entries of a sub-model's float32 arrays end to end; raises `InvalidValueError` on a wrong shape."""
        for name, shape in placement.shapes.items():
            if values[name].shape != shape:
                require(False, f"shape of {name}", values[name].shape, f"{shape}")
        return np.concatenate([values[name].ravel() for name in placement.shapes], dtype=np.float32)

    def split(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views of a vector of `size` entries, by name and in the parameters' shapes."""
        arrays, offset = {}, 0
        for parameter in self._layout.parameters:
            size = prod(parameter.shape)
            arrays[parameter.name] = flat[offset : offset + size].reshape(parameter.shape)
            offset += size
        return arrays

    def _place(self, sub_model: SubModel) -> Placement:
        shapes = sub_shapes(self._layout, sub_model.widths)
        if element_count(self._layout, sub_model.widths) == self.size:
            return Placement(shapes, None)
        parts, offset = [], 0
        for parameter in self._layout.parameters:
            parts.append(_positions_in(parameter, sub_model) + offset)
            offset += prod(parameter.shape)
        return Placement(shapes, np.concatenate(parts))


def _positions_in(parameter: Parameter, sub_model: SubModel) -> Indices:
    flat = np.zeros((1,) * len(parameter.shape), dtype=np.int64)
    stride = prod(parameter.shape)
    for size, along in zip(parameter.shape, positions(parameter, sub_model), strict=True):
        stride //= size
        flat = flat + along * stride
    return flat.ravel()


def _entries(placement: Placement) -> int:
    return 0 if placement.positions is None else len(placement.positions)
