"""A statistic over the devices that trained a coordinate, coordinate by coordinate, in bounded memory.

Robust statistics need all devices' values of a coordinate at once. The flat model is cut into ranges of coordinates
that fit a budget of memory with all devices' values. Each range is one pass over the contributions, so there are
devices x coordinates x 4 bytes / budget passes over what is kept on disk. Values are sorted before the statistic sees
them, so the devices' order changes nothing, bit for bit.

Every device counts the same here: weights are what devices say of themselves, and a lie about them must not buy
influence.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.contribution import Contribution, Contributions
from server.aggregation.flat_model import FlatModel
from server.aggregation.rule import Aggregate
from wire_protocol.errors import require

DEFAULT_BUDGET_BYTES = 256 * 2**20

Statistic = Callable[[NDArray[np.float32]], NDArray[Any]]
"""From (coordinates, devices), each row ascending and at least one device, to one value a coordinate."""


def by_coordinate(
    flat: FlatModel, contributions: Contributions, statistic: Statistic, budget_bytes: int = DEFAULT_BUDGET_BYTES
) -> Aggregate:
    """The statistic at every coordinate that anyone trained; memory is the budget, one update and the result."""
    require(budget_bytes > 0, "budget_bytes", budget_bytes, "above 0")
    flat.forget_unused()
    result = np.zeros(flat.size, dtype=np.float32)
    trained = np.zeros(flat.size, dtype=np.bool_)
    width = max(1, budget_bytes // (4 * max(1, len(contributions))))
    for start in range(0, flat.size if len(contributions) else 0, width):
        part = slice(start, min(start + width, flat.size))
        values, counts = _values_of(flat, contributions, part)
        values.sort(axis=1)
        result[part] = _apply(statistic, values, counts)
        trained[part] = counts > 0
    return Aggregate(flat.split(result), flat.split(trained))


def _values_of(
    flat: FlatModel, contributions: Contributions, part: slice
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Values (coordinates, devices), infinite where a device did not train one, and how many did."""
    size = part.stop - part.start
    values = np.full((size, len(contributions)), np.inf, dtype=np.float32)
    counts = np.zeros(size, dtype=np.int64)
    for column, one in enumerate(contributions):
        where, sent = _entries_in(flat, one, part)
        values[where, column] = sent
        counts[where] += 1
    return values, counts


def _entries_in(flat: FlatModel, one: Contribution, part: slice) -> tuple[Any, NDArray[np.float32]]:
    """Where the range's entries of one contribution stand in the range, and their values (0 for -0, to sort alike)."""
    placement = flat.place(one.sub_model)
    values = flat.flatten(placement, one.values)
    where: Any = slice(None)
    if placement.positions is None:
        values = values[part]
    else:
        first, last = np.searchsorted(placement.positions, (part.start, part.stop))
        where, values = placement.positions[first:last] - part.start, values[first:last]
    return where, np.asarray(values * one.scale + 0.0, dtype=np.float32)


def _apply(statistic: Statistic, values: NDArray[np.float32], counts: NDArray[np.int64]) -> NDArray[np.float32]:
    result = np.zeros(len(counts), dtype=np.float32)
    for count in np.unique(counts[counts > 0]):
        rows = counts == count
        sent = values[:, :count] if rows.all() else values[rows, :count]
        result[rows] = statistic(sent)
    return result
