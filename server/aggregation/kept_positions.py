"""At which positions the entries that a sub-model keeps stand, in consecutive parameters laid end to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.layout import CutAxis, Parameter
from wire_protocol.sub_model import SubModel, positions_along


@dataclass(frozen=True)
class _Axis:
    """An axis of `size` steps, `stride` positions each; `cut` is None where all are kept."""

    size: int
    stride: int
    cut: CutAxis | None


class KeptPositions:
    """Positions are of type `dtype`: int32, or int64 where there are 2^31 and more."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters: list[tuple[int, list[_Axis]]] = []
        offset = 0
        for parameter in parameters:
            self._parameters.append((offset, _axes(parameter)))
            offset += prod(parameter.shape)
        self.dtype: type[np.signedinteger[Any]] = np.int32 if offset < 2**31 else np.int64

    def of(self, sub_model: SubModel) -> NDArray[Any]:
        """Ascending positions of all that the sub-model keeps."""
        along: dict[tuple[str | None, int, int, int], NDArray[Any]] = {}
        placed = []
        for offset, axes in self._parameters:
            positions = np.array([offset], dtype=self.dtype)
            for axis in axes:
                cut = axis.cut
                key = (cut.group, cut.block, cut.repeat, axis.stride) if cut else (None, axis.size, 1, axis.stride)
                if key not in along:
                    along[key] = self._steps(axis, sub_model)
                positions = (positions[:, None] + along[key]).ravel()
            placed.append(positions)
        return np.concatenate(placed)

    def _steps(self, axis: _Axis, sub_model: SubModel) -> NDArray[Any]:
        cut = axis.cut
        steps = np.arange(axis.size) if cut is None else positions_along(cut, sub_model.kept[cut.group], axis.size)
        placed: NDArray[Any] = steps.astype(self.dtype) * self.dtype(axis.stride)
        return placed


def _axes(parameter: Parameter) -> list[_Axis]:
    """From the first to the last; neighbours that are not cut are one axis."""
    shape, cuts = parameter.shape, {cut.axis: cut for cut in parameter.cuts}
    axes: list[_Axis] = []
    for axis in range(len(shape)):
        cut, size, stride = cuts.get(axis), shape[axis], prod(shape[axis + 1 :])
        if cut is None and axes and axes[-1].cut is None:
            size *= axes.pop().size
        axes.append(_Axis(size, stride, cut))
    return axes
