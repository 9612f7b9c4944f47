"""How much weight stands behind every coordinate, without an entry for every coordinate.

A sub-model keeps entry (i, j) of a parameter when it keeps neuron i of one group and neuron j of another. With a(d, i)
and b(d, j) being 1 where device d keeps the neuron and else 0, the weight behind (i, j) is ::

    sum over d of w(d) a(d, i) b(d, j)

a product of matrices, which is added for `_BATCH` devices at once. All parameters that are cut by the same groups
share the sums, and a neuron's block of inputs or gates is one entry. Weights are whole numbers (examples), so as long
as their sum stays below 2^53 every sum is exact in float64 and its order does not matter.
"""

from __future__ import annotations

from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from server.aggregation.flat_model import FlatModel, Placement
from wire_protocol.layout import Parameter

_BATCH = 64

Groups = tuple[str, ...]
Matrix = NDArray[np.float64]


class WeightSums:
    """Sums of weights over the layout of a flat model."""

    def __init__(self, flat: FlatModel) -> None:
        sizes = flat.layout.group_sizes
        ends = accumulate(sizes.values())
        self._of_group = {name: slice(end - sizes[name], end) for name, end in zip(sizes, ends, strict=True)}
        self._kept: list[NDArray[np.bool_]] = []
        self._weights: list[float] = []
        self._by_all = 0.0
        self._by_neuron = np.zeros(sum(sizes.values()))
        cut_by = map(_groups, flat.layout.parameters)
        self._by_groups = {groups: np.zeros([sizes[name] for name in groups]) for groups in cut_by if len(groups) > 1}

    def add(self, placement: Placement, weight: float) -> None:
        """Put `weight` behind every coordinate of the sub-model that is placed."""
        if self._kept and placement.kept is self._kept[-1]:
            self._weights[-1] += weight
            return
        self._kept.append(placement.kept)
        self._weights.append(weight)
        if len(self._weights) == _BATCH:
            self.add_waiting()

    def add_waiting(self) -> None:
        """Add what waits for others to be added together with."""
        if not self._weights:
            return
        kept = np.concatenate(self._kept, dtype=np.float64).reshape(len(self._kept), -1)
        weights = np.array(self._weights)
        self._kept, self._weights = [], []
        weighted = kept * weights[:, None]
        self._by_all += weights.sum()
        self._by_neuron += weighted.sum(axis=0)
        for groups, total in self._by_groups.items():
            first, *others, last = (self._of_group[name] for name in groups)
            left = weighted[:, first]
            for other in others:
                left = (left[:, :, None] * kept[:, None, other]).reshape(len(kept), -1)
            np.add(total, (left.T @ kept[:, last]).reshape(total.shape), out=total)

    def behind(self, parameter: Parameter) -> Matrix:
        """Sums that broadcast against an array of `split_shape(parameter)`."""
        self.add_waiting()
        shape: list[int] = []
        cuts = {cut.axis: cut for cut in parameter.cuts}
        for axis in range(len(parameter.shape)):
            cut = cuts.get(axis)
            shape += (1,) if cut is None else (1, parameter.shape[axis] // cut.entries, 1)
        return self._of(_groups(parameter)).reshape(shape)

    def _of(self, groups: Groups) -> Matrix:
        match groups:
            case ():
                return np.array(self._by_all)
            case (group,):
                return self._by_neuron[self._of_group[group]]
        return self._by_groups[groups]


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
