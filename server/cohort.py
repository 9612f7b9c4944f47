"""The fleet's own ranking of neurons, from the scores that devices send with the updates of a resync round.

Every device's score of a neuron is a sum over its examples, so their sum is the score on all examples of the fleet.
Sums are float64 and made in the order of the updates, so equal updates give an equal ranking. Holds one vector a group,
whatever the number of devices.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from server.screening import Screened
from wire_protocol.layout import Layout
from wire_protocol.neuron_scores import Scores, decode_scores, encode_ranking, rank


class Cohort:
    """Sums the scores of one round."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._sums = {group: np.zeros(size) for group, size in layout.group_sizes.items()}
        self._heard = 0

    def hear(self, updates: Iterable[Screened]) -> Cohort:
        """Add the scores that came with updates; returns itself."""
        for screened in updates:
            if screened.update.scores:
                self.add(decode_scores(self._layout, screened.update.scores))
        return self

    def add(self, scores: Scores) -> None:
        """Add the scores of one device."""
        for group, values in scores.items():
            self._sums[group] += values
        self._heard += 1

    def ranking(self) -> dict[str, bytes]:
        """The encoded ranking by the scores added so far, empty where there were none."""
        return encode_ranking(rank(self._sums)) if self._heard else {}
