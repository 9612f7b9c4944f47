"""The gradient of private descent: a sum of clipped gradients of examples, plus noise, over a number known beforehand.

    g = (sum over the batch of grad f_i(w) min(1, C / |grad f_i(w)|) + N(0, (z C)^2)) / B

One record more or less changes the sum by at most C, so whatever is made of g is as private as the Gaussian mechanism
of multiplier z (Abadi et al., 2016, "Deep learning with differential privacy"). B does not depend on the batch. A batch
passes in parts of `PART` examples, which bounds memory; noise is added once.
"""

from __future__ import annotations

import numpy as np

from edge_client.errors import TrainingError
from edge_client.local_data import in_order
from edge_client.onnx_session import BoundRun, Graph, batch_feeds
from edge_client.privacy.clip_count import ClipCount
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.noise import noised
from edge_client.training.descent import Memory
from wire_protocol.examples import Examples

PART = 32
NO_LOSS = 0.0
"""The loss of a batch is a fact about its records, and nobody is told."""


class NoisedGradient:
    """A `Gradient`. An example that the graph fails on, or whose gradient is not finite, counts as 0.

    An error would be a word about it: a server could choose values at which only some examples fail.
    Where there is a `count`, it is told how many gradients of every step are within the clip norm.
    """

    def __init__(self, session: Graph, mechanism: Mechanism, count: ClipCount | None, memory: Memory) -> None:
        self._mechanism, self._memory, self._count = mechanism, memory, count
        self._clip_norm = np.array(mechanism.privacy.clip_norm, dtype=np.float32)
        self._part = {name: np.zeros_like(gradient) for name, gradient in memory.gradients.items()}
        self._norms = np.zeros(PART, dtype=np.float32)
        outputs = {f"grad.{name}": part for name, part in self._part.items()}
        self._bound = BoundRun(session, {**memory.parameters, "clip_norm": self._clip_norm}, outputs)

    def make(self, batch: Examples) -> float:
        """See `Gradient.make`; the loss is always `NO_LOSS`."""
        sums = self._memory.gradients
        for total in sums.values():
            total[...] = 0.0
        within = 0
        for part in in_order(batch, PART):
            within += self._add_clipped(part)
        privacy = self._mechanism.privacy
        stddev = privacy.noise_multiplier * privacy.clip_norm
        for total in sums.values():
            total[...] = noised(total, stddev, self._mechanism.noise) / self._mechanism.divisor
        if self._count is not None:
            self._count.add(within, len(batch))
        return NO_LOSS

    def _add_clipped(self, part: Examples) -> int:
        """Add the sum over a part, or over those of its examples that are finite by themselves; how many are within."""
        within, finite = self._run(part)
        if not finite and len(part) > 1:
            return sum(self._add_clipped(one) for one in in_order(part, 1))
        if finite:
            for name, clipped in self._part.items():
                self._memory.gradients[name] += clipped
        return within if finite else 0

    def _run(self, part: Examples) -> tuple[int, bool]:
        """How many of a part's gradients are within the clip norm, and whether their sum is there and finite."""
        norms = self._norms[: len(part)] if self._count is not None else self._norms[:0]
        try:
            self._bound.run(batch_feeds(part), {"norms": norms} if len(norms) else {})
        except TrainingError:
            return 0, False
        finite = all(np.isfinite(array).all() for array in self._part.values())
        return int(np.count_nonzero(norms <= self._clip_norm)), finite
