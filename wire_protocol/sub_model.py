"""A sub-model: the neurons kept in every group, and the moves between full and sub-model arrays.

All functions are pure. Arrays are dictionaries from parameter name to a float32 array; a full array has the shape in
the layout, a sub-model array keeps only the entries of kept neurons along each cut axis, in ascending order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import ProtocolError, require
from wire_protocol.layout import CutAxis, Layout, Parameter

Arrays = Mapping[str, NDArray[Any]]
Indices = NDArray[np.int64]

SELECTION_ID_BYTES = 8
_REMEMBERED_SHAPES = 256


@dataclass(frozen=True)
class SubModel:
    """Kept neurons: for each group the sorted, distinct indices of its neurons, int64, at least one."""

    kept: Mapping[str, Indices]

    def __post_init__(self) -> None:
        for group, indices in self.kept.items():
            require(len(indices) > 0, f"kept neurons of {group}", 0, "at least 1")
            if indices[0] < 0 or not (indices[1:] > indices[:-1]).all():
                require(False, f"kept neurons of {group}", indices.tolist(), "sorted, distinct and not negative")

    @property
    def widths(self) -> dict[str, int]:
        """Number of neurons kept in each group."""
        return {group: len(indices) for group, indices in self.kept.items()}


def full_sub_model(layout: Layout) -> SubModel:
    """The sub-model that keeps every neuron."""
    return SubModel({group.name: np.arange(group.size) for group in layout.groups})


def kept_count(keep: float, size: int) -> int:
    """Neurons kept of a group of `size` at the fraction `keep` in (0, 1]: the nearest count, at least 1."""
    require(0 < keep <= 1, "keep", keep, "above 0 and at most 1")
    return max(1, round(keep * size))


def widths_at(layout: Layout, keep: float) -> dict[str, int]:
    """Neurons kept of every group at the fraction `keep`."""
    return {group.name: kept_count(keep, group.size) for group in layout.groups}


def sub_shape(parameter: Parameter, widths: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of `parameter` when each group keeps `widths[group]` neurons."""
    shape = list(parameter.shape)
    for cut in parameter.cuts:
        shape[cut.axis] = widths[cut.group] * cut.entries
    return tuple(shape)


def sub_shapes(layout: Layout, widths: Mapping[str, int]) -> Mapping[str, tuple[int, ...]]:
    """Shapes of all parameters, in wire order, at the given widths: one mapping for all who ask, while remembered."""
    return _sub_shapes(layout, tuple([widths[group.name] for group in layout.groups]))


@lru_cache(_REMEMBERED_SHAPES)
def _sub_shapes(layout: Layout, widths: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
    of = dict(zip(layout.group_sizes, widths, strict=True))
    return {parameter.name: sub_shape(parameter, of) for parameter in layout.parameters}


def positions(parameter: Parameter, sub_model: SubModel) -> tuple[Indices, ...]:
    """Open mesh (as `numpy.ix_`) of the entries of `parameter` that the sub-model keeps."""
    axes = [np.arange(size) for size in parameter.shape]
    for cut in parameter.cuts:
        axes[cut.axis] = positions_along(cut, sub_model.kept[cut.group], parameter.shape[cut.axis])
    return np.ix_(*axes)


def positions_along(cut: CutAxis, kept: Indices, size: int) -> Indices:
    """Ascending positions along the cut axis, `size` long, of the entries of kept neurons."""
    if cut.entries == 1:
        return kept
    copies = np.arange(cut.repeat)[:, None, None] * (size // cut.repeat)
    return (copies + kept[:, None] * cut.block + np.arange(cut.block)).ravel()


def gather(layout: Layout, sub_model: SubModel, full: Arrays) -> dict[str, NDArray[Any]]:
    """Cut the full arrays down to the sub-model; the result is contiguous and shares no memory with `full`."""
    return {
        parameter.name: np.ascontiguousarray(full[parameter.name][positions(parameter, sub_model)])
        if parameter.cuts
        else full[parameter.name].copy()
        for parameter in layout.parameters
    }


def element_count(layout: Layout, widths: Mapping[str, int]) -> int:
    """Scalars in a sub-model of these widths."""
    return sum(prod(shape) for shape in sub_shapes(layout, widths).values())


def multiply_accumulates(layout: Layout, widths: Mapping[str, int]) -> int:
    """Multiply-accumulates of one example's forward pass at these widths."""
    return _multiply_accumulates(layout, tuple([widths[group.name] for group in layout.groups]))


@lru_cache(_REMEMBERED_SHAPES)
def _multiply_accumulates(layout: Layout, widths: tuple[int, ...]) -> int:
    shapes = _sub_shapes(layout, widths)
    return sum(parameter.uses_per_example * prod(shapes[parameter.name]) for parameter in layout.parameters)


def to_bitmaps(layout: Layout, sub_model: SubModel) -> dict[str, bytes]:
    """One bit a neuron (most significant bit first, padded with zeros) for each group."""
    bitmaps = {}
    for group in layout.groups:
        bits = np.zeros(group.size, dtype=np.uint8)
        bits[sub_model.kept[group.name]] = 1
        bitmaps[group.name] = np.packbits(bits).tobytes()
    return bitmaps


def selection_id(layout: Layout, sub_model: SubModel) -> bytes:
    """Names the neurons kept, for whoever knows them: the start of the SHA-256 of all bitmaps in layout order."""
    return sha256(b"".join(to_bitmaps(layout, sub_model).values())).digest()[:SELECTION_ID_BYTES]


def from_bitmaps(layout: Layout, bitmaps: Mapping[str, bytes]) -> SubModel:
    """Read kept-neuron bitmaps strictly; raises `ProtocolError` on a wrong group, length, padding or an empty group."""
    if set(bitmaps) != set(layout.group_sizes):
        raise ProtocolError(f"kept-neuron bitmaps name groups {sorted(bitmaps)}, expected {sorted(layout.group_sizes)}")
    kept = {}
    for group in layout.groups:
        bitmap = bitmaps[group.name]
        if len(bitmap) != (group.size + 7) // 8:
            raise ProtocolError(f"bitmap of {group.name} has {len(bitmap)} bytes, expected {(group.size + 7) // 8}")
        bits = np.unpackbits(np.frombuffer(bitmap, dtype=np.uint8))
        if bits[group.size :].any():
            raise ProtocolError(f"bitmap of {group.name} sets bits past its {group.size} neurons")
        kept[group.name] = np.flatnonzero(bits)
        if not len(kept[group.name]):
            raise ProtocolError(f"bitmap of {group.name} keeps no neuron, expected at least 1")
    return SubModel(kept)
