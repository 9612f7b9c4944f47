"""The fleet's own ranking of neurons, from the scores that devices send with the updates of a resync round.

Every device's score of a neuron is a sum over its examples, so their sum is the score on all examples of the fleet.
Sums are float64 and made in the order of the updates, so equal updates give an equal ranking. Holds one vector a group,
and one width a group and device.

A ranking has as many neurons of a group as at least half of the devices heard can afford: what few devices train learns
what those few have seen, and the whole model is worse with it than without (docs/results.md). From the first ranking on
the others are silent: their outgoing weights are 0, so that the whole model is the model that was trained. A silent
neuron has no score, and comes back only in the place of one that has none either, as a unit that never fires; then it
grows from nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.screening import Screened
from wire_protocol.layout import Layout, Parameter
from wire_protocol.neuron_scores import Scores, decode_scores, rank
from wire_protocol.sub_model import Arrays, Indices, positions_along

Ranking = Mapping[str, Indices]
"""Of each group the neurons that are trained, the best first."""


class Cohort:
    """Sums the scores of one round."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sums = {group: np.zeros(size) for group, size in layout.group_sizes.items()}
        self._widths: dict[str, list[int]] = {group: [] for group in layout.group_sizes}
        self._heard = 0

    def hear(self, updates: Iterable[Screened]) -> Cohort:
        """Add the scores that came with updates; returns itself."""
        for screened in updates:
            if screened.update.scores:
                self.add(decode_scores(self._layout, screened.update.scores), screened.sub_model.widths)
        return self

    def add(self, scores: Scores, widths: Mapping[str, int]) -> None:
        """Add the scores of a device that keeps so many neurons of each group."""
        for group, values in scores.items():
            self._sums[group] += values
            self._widths[group].append(widths[group])
        self._heard += 1

    def ranking(self) -> Ranking:
        """By the scores added so far, the best neurons first; empty where there were none."""
        if not self._heard:
            return {}
        return {group: order[: _covered(self._widths[group])] for group, order in rank(self._sums).items()}


def _covered(widths: list[int]) -> int:
    """The largest width that at least half of these are not below."""
    return sorted(widths, reverse=True)[(len(widths) - 1) // 2]


def silenced(layout: Layout, parameters: Arrays, ranking: Ranking) -> dict[str, NDArray[Any]]:
    """Full float32 parameters without what reads a neuron that is not in the ranking."""
    return {
        parameter.name: _silenced(parameter, parameters[parameter.name], ranking) for parameter in layout.parameters
    }


def _silenced(parameter: Parameter, array: NDArray[Any], ranking: Ranking) -> NDArray[Any]:
    for cut in parameter.cuts:
        if not cut.produces:
            read = np.zeros(parameter.shape[cut.axis], dtype=bool)
            read[positions_along(cut, np.sort(ranking[cut.group]), len(read))] = True
            shape = [1] * array.ndim
            shape[cut.axis] = len(read)
            array = np.where(read.reshape(shape), array, np.float32(0))
    return array
