"""Neuron scores: the empirical diagonal Fisher information of each neuron's own parameters, summed over examples.

F_j = sum over examples of |gradient of neuron j's own parameters|^2 (Kunstner et al., 2019, on what "empirical"
leaves out).
"""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.errors import TrainingError
from edge_client.local_data import in_order
from edge_client.onnx_session import Graph, feeds, open_session, run
from edge_client.processors import ONE_THREAD, Processors
from wire_protocol.bundle_manifest import FISHER
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays


class FisherScorer:
    """Scores the neurons of one bundle's model."""

    def __init__(self, session: Graph, layout: Layout) -> None:
        self._session = session
        self._layout = layout

    @classmethod
    def open(cls, bundle_dir: Path, layout: Layout, processors: Processors = ONE_THREAD) -> FisherScorer:
        """Load the scoring graph of a bundle; raises `TrainingError`."""
        return cls(open_session(bundle_dir / FISHER, processors), layout)

    def scores(
        self, parameters: Arrays, batches: Iterable[Examples], clip_norm: float = inf
    ) -> dict[str, NDArray[Any]]:
        """Sum of scores over all examples, float32 [width of group] for each group, none negative.

        Each example's gradient counts as if scaled to the L2 norm `clip_norm` where it is longer, all parameters
        together. One example more or less then moves all scores together by at most clip_norm^2 (L2).

        Sums are kept in float64, so that the order of batches does not decide between two neurons.
        """
        totals = {group.name: np.zeros(group.size) for group in self._layout.groups}
        for batch in batches:
            for group, values in self._finite(parameters, batch, clip_norm).items():
                totals[group] += values
        return {group: values.astype(np.float32) for group, values in totals.items()}

    def _finite(self, parameters: Arrays, batch: Examples, clip_norm: float) -> Arrays:
        """The sums over a batch; with a finite bound an example that has no finite scores counts as 0."""
        if clip_norm == inf:
            return self._sums(parameters, batch, clip_norm)
        found = self._finite_sums(parameters, batch, clip_norm)
        if found is not None:
            return found
        alone = [self._finite_sums(parameters, one, clip_norm) for one in in_order(batch, 1)]
        fit = [scores for scores in alone if scores is not None]
        return {group: np.sum([scores[group] for scores in fit], axis=0) for group in fit[0]} if fit else {}

    def _finite_sums(self, parameters: Arrays, batch: Examples, clip_norm: float) -> Arrays | None:
        """None where the graph fails, or gives what is not finite: which examples these are must not be told."""
        try:
            found = self._sums(parameters, batch, clip_norm)
        except TrainingError:
            return None
        return found if all(np.isfinite(values).all() for values in found.values()) else None

    def _sums(self, parameters: Arrays, batch: Examples, clip_norm: float) -> Arrays:
        groups = [group.name for group in self._layout.groups]
        inputs = {**feeds(parameters, batch), "clip_norm": np.array(clip_norm, np.float32)}
        return dict(zip(groups, run(self._session, [f"fisher.{group}" for group in groups], inputs), strict=True))
