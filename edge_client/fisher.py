"""Neuron scores: the empirical diagonal Fisher information of each neuron's own parameters, summed over examples.

F_j = sum over examples of |gradient of neuron j's own parameters|^2 (Kunstner et al., 2019, on what "empirical"
leaves out).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.onnx_session import Session, feeds, open_session, run
from wire_protocol.bundle_manifest import FISHER
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays

NOT_CLIPPED = np.array(np.inf, dtype=np.float32)


class FisherScorer:
    """Scores the neurons of one bundle's model."""

    def __init__(self, session: Session, layout: Layout) -> None:
        self._session = session
        self._layout = layout

    @classmethod
    def open(cls, bundle_dir: Path, layout: Layout, threads: int) -> FisherScorer:
        """Load the scoring graph of a bundle; raises `TrainingError`."""
        return cls(open_session(bundle_dir / FISHER, threads), layout)

    def scores(self, parameters: Arrays, batches: Iterable[Examples]) -> dict[str, NDArray[Any]]:
        """Sum of scores over all examples, float32 [width of group] for each group, none negative.

        Sums are kept in float64, so that the order of batches does not decide between two neurons.
        """
        groups = [group.name for group in self._layout.groups]
        sums: dict[str, NDArray[Any]] = {}
        for batch in batches:
            inputs = {**feeds(parameters, batch), "clip_norm": NOT_CLIPPED}
            found = run(self._session, [f"fisher.{group}" for group in groups], inputs)
            for group, values in zip(groups, found, strict=True):
                sums[group] = sums.get(group, 0.0) + values.astype(np.float64)
        return {group: values.astype(np.float32) for group, values in sums.items()}
