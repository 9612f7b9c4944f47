"""How much weight stands behind every coordinate, without an entry for every coordinate.

A sub-model keeps entry (i, j) of a parameter when it keeps neuron i of one group and neuron j of another. With a(d, i)
and b(d, j) being 1 where device d keeps the neuron and else 0, the weight behind (i, j) is ::

    sum over d of w(d) a(d, i) b(d, j)

a product of matrices, which is added for `_BATCH` devices at once. All parameters that are cut by the same groups
share the sums, and a neuron's block of inputs or gates is one entry. Weights are whole numbers (examples), so as long
as their sum stays below 2^53 every sum is exact in float64 and its order does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.layout import Layout, Parameter
from wire_protocol.sub_model import SubModel

_BATCH = 32

Groups = tuple[str, ...]


class WeightSums:
    """Sums of weights over one layout."""

    def __init__(self, layout: Layout) -> None:
        sizes = layout.group_sizes
        self._kept = {name: np.zeros((_BATCH, size)) for name, size in sizes.items()}
        self._weights = np.zeros(_BATCH)
        self._waiting = 0
        self._sums: dict[Groups, NDArray[np.float64]] = {
            groups: np.zeros([sizes[name] for name in groups]) for groups in map(_groups, layout.parameters)
        }

    def add(self, sub_model: SubModel, weight: float) -> None:
        """Put `weight` behind every coordinate of the sub-model."""
        for name, kept in self._kept.items():
            kept[self._waiting, sub_model.kept[name]] = 1
        self._weights[self._waiting] = weight
        self._waiting += 1
        if self._waiting == _BATCH:
            self._add_waiting()

    def behind(self, parameter: Parameter) -> NDArray[np.float64]:
        """Sums that broadcast against an array of `split_shape(parameter)`."""
        self._add_waiting()
        shape: list[int] = []
        cuts = {cut.axis: cut for cut in parameter.cuts}
        for axis in range(len(parameter.shape)):
            cut = cuts.get(axis)
            shape += (1,) if cut is None else (1, parameter.shape[axis] // cut.entries, 1)
        return self._sums[_groups(parameter)].reshape(shape)

    def _add_waiting(self) -> None:
        if not self._waiting:
            return
        for groups in self._sums:
            left: NDArray[Any] = self._weights[:, None]
            for name in groups[:-1]:
                left = (left[:, :, None] * self._kept[name][:, None, :]).reshape(_BATCH, -1)
            right = self._kept[groups[-1]] if groups else np.ones((_BATCH, 1))
            self._sums[groups] += (left.T @ right).reshape(self._sums[groups].shape)
        for kept in self._kept.values():
            kept.fill(0)
        self._weights.fill(0)
        self._waiting = 0


def split_shape(parameter: Parameter) -> tuple[int, ...]:
    """The parameter's shape with every cut axis split into (copies, neurons, entries of a block)."""
    cuts = {cut.axis: cut for cut in parameter.cuts}
    shape: list[int] = []
    for axis, size in enumerate(parameter.shape):
        cut = cuts.get(axis)
        shape += (size,) if cut is None else (cut.repeat, size // cut.entries, cut.block)
    return tuple(shape)


def _groups(parameter: Parameter) -> Groups:
    return tuple(cut.group for cut in sorted(parameter.cuts, key=lambda cut: cut.axis))
