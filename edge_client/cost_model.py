"""What a step of training costs at any widths, from what it cost at a few.

    seconds a step  = a + b x multiply-accumulates + c x activations
    seconds a round = g + h x parameters, beside its steps: to begin, to encode
    peak megabytes  = d + e x parameters           + f x activations

with coefficients that are not negative (least squares of the relative errors), so that no wider model is predicted to
cost less. Activations stand for what passes over tensors and computes little, as normalisation and depthwise
convolution do: without them the worst tenth of DS-CNN's predictions is off by 32 % and more, with them by 21 %, while
LeNet and a multilayer perceptron need them not (tried at 40 random widths each; docs/design.md has what comes of it).
No I/O.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.layout import Layout
from wire_protocol.sub_model import sub_shapes
from wire_protocol.tensor_codec import Codec, expected_size

Widths = NDArray[np.int64]
"""Rows of widths, one column a neuron group: [n, groups]."""
Columns = NDArray[np.float64]
SHORTEST_SECONDS = 1e-6
"""Below it a clock says nothing."""


class LayoutSizes:
    """What a layout's costs depend on, for many widths at once."""

    def __init__(self, layout: Layout) -> None:
        self.groups = tuple(group.name for group in layout.groups)
        at = {name: index for index, name in enumerate(self.groups)}
        parameters = layout.parameters
        self._powers = np.zeros((len(parameters), len(at)))
        self._activations = np.zeros(len(at))
        self._uses = np.array([parameter.uses_per_example for parameter in parameters], dtype=float)
        whole = np.array([prod(parameter.shape) for parameter in parameters], dtype=float)
        for row, parameter in enumerate(parameters):
            for cut in parameter.cuts:
                self._powers[row, at[cut.group]] += 1
                whole[row] /= layout.group_sizes[cut.group]
                self._activations[at[cut.group]] += cut.produces * parameter.uses_per_example * cut.entries
        self._each = whole

    def row(self, widths: Mapping[str, int]) -> Widths:
        """Widths by name as one row."""
        return np.array([[widths[group] for group in self.groups]], dtype=np.int64)

    def named(self, row: Widths) -> dict[str, int]:
        """One row, [groups], as widths by name."""
        return {group: int(width) for group, width in zip(self.groups, row, strict=True)}

    def elements(self, widths: Widths) -> Columns:
        """Parameters of each sub-model: float64 [n], whole numbers."""
        return np.asarray(self._elements(widths).sum(axis=1))

    def multiply_accumulates(self, widths: Widths) -> Columns:
        """Of one example's forward pass: float64 [n]."""
        return np.asarray(self._elements(widths) @ self._uses)

    def activations(self, widths: Widths) -> Columns:
        """Numbers that one example's forward pass makes in layers that are cut: float64 [n]."""
        return np.asarray(widths @ self._activations)

    def _elements(self, widths: Widths) -> Columns:
        """Parameters by parameter; products by logarithms, as a planner asks for thousands of rows."""
        return np.asarray(np.rint(self._each * np.exp(np.log(widths) @ self._powers.T)))


@dataclass(frozen=True)
class Measured:
    """Seconds of a step and of all a round does beside its steps, and peak megabytes of the process, at some widths."""

    widths: dict[str, int]
    step_seconds: float
    once_seconds: float
    peak_mb: float


@dataclass(frozen=True)
class CostModel:
    """Coefficients (a, b, c) of seconds a step, (g, h) of seconds a round, and (d, e, f) of peak megabytes."""

    sizes: LayoutSizes
    step: tuple[float, ...]
    once: tuple[float, ...]
    megabytes: tuple[float, ...]

    def round_seconds(self, widths: Widths, steps: int) -> Columns:
        """Predicted seconds of training for `steps` steps and encoding what changed: float64 [n]."""
        stepping = _time_terms(self.sizes, widths) @ np.array(self.step)
        return np.asarray(_once_terms(self.sizes, widths) @ np.array(self.once) + steps * stepping)

    def peak_mb(self, widths: Widths) -> Columns:
        """Predicted peak memory of the process in 10^6 bytes: float64 [n]."""
        return np.asarray(_memory_terms(self.sizes, widths) @ np.array(self.megabytes))


def fit_costs(layout: Layout, points: Sequence[Measured]) -> CostModel:
    """The model that explains what was measured best; `points` holds at least one."""
    sizes = LayoutSizes(layout)
    widths = np.concatenate([sizes.row(point.widths) for point in points])
    step = _relative_fit(_time_terms(sizes, widths), np.array([point.step_seconds for point in points]))
    once = _relative_fit(_once_terms(sizes, widths), np.array([point.once_seconds for point in points]))
    megabytes = _relative_fit(_memory_terms(sizes, widths), np.array([point.peak_mb for point in points]))
    return CostModel(sizes, step, once, megabytes)


def non_negative_least_squares(terms: NDArray[Any], values: NDArray[Any]) -> Columns:
    """Coefficients x >= 0 with the least |terms x - values|: the best of all subsets of columns whose plain solution is
    not negative (Lawson and Hanson, 1974, chapter 23, by enumeration, as columns are few).
    """
    count = terms.shape[1]
    best, least = np.zeros(count), float(values @ values)
    for size in range(1, count + 1):
        for chosen in combinations(range(count), size):
            columns = terms[:, chosen]
            found = np.linalg.lstsq(columns, values, rcond=None)[0]
            rest = columns @ found - values
            if (found >= 0).all() and float(rest @ rest) < least * (1 - 1e-12):
                best, least = np.zeros(count), float(rest @ rest)
                best[list(chosen)] = found
    return best


def value_bytes(layout: Layout, widths: Mapping[str, int], codec: Codec) -> int:
    """Bytes that an update's values are expected to take: the one place that asks the codec."""
    return expected_size(sub_shapes(layout, widths), codec)


def _relative_fit(terms: Columns, values: Columns) -> tuple[float, ...]:
    """Columns are brought to one scale first, so that no count is lost beside a larger one."""
    scale = np.maximum(terms.max(axis=0), 1.0)
    relative = np.maximum(values, SHORTEST_SECONDS)[:, None]
    found = non_negative_least_squares(terms / scale / relative, values / relative[:, 0])
    return tuple((found / scale).tolist())


def _time_terms(sizes: LayoutSizes, widths: Widths) -> Columns:
    return np.stack([np.ones(len(widths)), sizes.multiply_accumulates(widths), sizes.activations(widths)], axis=1)


def _once_terms(sizes: LayoutSizes, widths: Widths) -> Columns:
    return np.stack([np.ones(len(widths)), sizes.elements(widths)], axis=1)


def _memory_terms(sizes: LayoutSizes, widths: Widths) -> Columns:
    return np.stack([np.ones(len(widths)), sizes.elements(widths), sizes.activations(widths)], axis=1)
