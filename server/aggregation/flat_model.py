"""A layout's parameters end to end as one vector, and where a sub-model's entries stand in it.

One vector instead of one array a parameter: small models have dozens of parameters of a few hundred entries, and then
calls cost more than the arithmetic. Entries of a sub-model, taken in wire order, stand at ascending positions.

In a large parameter they stand in blocks: a neuron brings all of a kernel's entries, or all inputs where none is cut.
So the vector is divided into parts: one parameter in blocks, or consecutive others in blocks of one entry.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.kept_positions import KeptPositions
from wire_protocol.errors import require
from wire_protocol.flat_arrays import FlatArrays, split
from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import Arrays, SubModel, sub_shapes

_REMEMBERED_POSITIONS = 2**23
"""Positions remembered: 32 MB. Devices keep their selection for several rounds, and those of a cohort share one."""
_SHORTEST_BLOCK, _SMALLEST_IN_BLOCKS = 16, 2**14
"""Entries of a block, and of a parameter, from which on blocks are faster than entries one by one."""


@dataclass(frozen=True)
class Part:
    """`full` of the model's vector, in blocks of `block` entries; `kept` says which of them a sub-model keeps."""

    full: slice
    block: int
    kept: KeptPositions


@dataclass(frozen=True)
class Span:
    """What a sub-model keeps of a part: `sent` of the sub-model's vector, as blocks at the ascending places `blocks`.

    Places are int32, or int64 for models of 2^31 entries and more.
    """

    sent: slice
    blocks: NDArray[Any]


@dataclass(frozen=True)
class Placement:
    """Shapes of a sub-model's arrays, and its spans, one for each part; None when it is the whole model."""

    shapes: Mapping[str, tuple[int, ...]]
    spans: tuple[Span, ...] | None


class FlatModel:
    """The flat form of `layout`; `size` is its number of entries, `parts` are consecutive and make up all of them."""

    def __init__(self, layout: Layout) -> None:
        self._placements: dict[bytes, Placement] = {}
        self._used: set[bytes] = set()
        self._remembered = 0
        self._shapes = {parameter.name: parameter.shape for parameter in layout.parameters}
        self.layout = layout
        self.size = layout.element_count
        self.parts = _parts(layout)

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

    def positions(self, placement: Placement) -> NDArray[Any]:
        """Of every entry, ascending, in the model's vector."""
        if placement.spans is None:
            return np.arange(self.size)
        return np.concatenate(
            [
                (part.full.start + span.blocks[:, None] * part.block + np.arange(part.block)).ravel()
                for part, span in zip(self.parts, placement.spans, strict=True)
            ]
        )

    def flatten(self, placement: Placement, values: Arrays) -> NDArray[np.float32]:
        """The entries of a sub-model's float32 arrays end to end; raises `InvalidValueError` on a wrong shape.

        Shares memory with `values` where these lie end to end already.
        """
        if isinstance(values, FlatArrays) and values.shapes == placement.shapes:
            return values.vector
        for name, shape in placement.shapes.items():
            if values[name].shape != shape:
                require(False, f"shape of {name}", values[name].shape, f"{shape}")
        return np.concatenate([values[name].ravel() for name in placement.shapes], dtype=np.float32)

    def split(self, flat: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """Views of a vector of `size` entries, by name and in the parameters' shapes."""
        return split(flat, self._shapes)

    def _place(self, sub_model: SubModel) -> Placement:
        shapes = sub_shapes(self.layout, sub_model.widths)
        if shapes == self._shapes:
            return Placement(shapes, None)
        spans, sent = [], 0
        for part in self.parts:
            blocks = part.kept.of(sub_model)
            entries = len(blocks) * part.block
            spans.append(Span(slice(sent, sent + entries), blocks))
            sent += entries
        return Placement(shapes, tuple(spans))


def _parts(layout: Layout) -> tuple[Part, ...]:
    parts, start = [], 0
    dtype = np.int32 if layout.element_count < 2**31 else np.int64
    for _, group in groupby(layout.parameters, lambda one: one.name if _block(one) > 1 else ""):
        parameters = tuple(group)
        block, stop = _block(parameters[0]), start + sum(prod(one.shape) for one in parameters)
        parts.append(Part(slice(start, stop), block, KeptPositions(parameters, block, dtype)))
        start = stop
    return tuple(parts)


def _block(parameter: Parameter) -> int:
    """Consecutive entries that are kept or dropped as one; 1 where there is no use in it."""
    last = max(parameter.cuts, key=lambda cut: cut.axis, default=None)
    block = last.block * prod(parameter.shape[last.axis + 1 :]) if last else 1
    return block if block >= _SHORTEST_BLOCK and prod(parameter.shape) >= _SMALLEST_IN_BLOCKS else 1


def _count(placement: Placement) -> int:
    return sum(len(span.blocks) for span in placement.spans or ())
