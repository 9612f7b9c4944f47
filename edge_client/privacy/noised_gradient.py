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
from edge_client.onnx_session import BoundRun, Session, batch_feeds
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.noise import noised
from edge_client.training.descent import Memory
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays

PART = 32
NO_LOSS = 0.0
"""The loss of a batch is a fact about its records, and nobody is told."""


class NoisedGradient:
    """A `Gradient`. An example that the graph fails on, or whose gradient is not finite, counts as 0.

    An error would be a word about it: a server could choose values at which only some examples fail.
    """

    def __init__(self, session: Session, mechanism: Mechanism, memory: Memory) -> None:
        self._mechanism, self._memory = mechanism, memory
        self._clip_norm = np.array(mechanism.privacy.clip_norm, dtype=np.float32)
        self._part = {name: np.zeros_like(gradient) for name, gradient in memory.gradients.items()}
        outputs = {f"grad.{name}": part for name, part in self._part.items()}
        self._bound = BoundRun(session, {**memory.parameters, "clip_norm": self._clip_norm}, outputs)

    def make(self, batch: Examples) -> float:
        """See `Gradient.make`; the loss is always `NO_LOSS`."""
        sums = self._memory.gradients
        for total in sums.values():
            total[...] = 0.0
        for part in in_order(batch, PART):
            for name, clipped in self._clipped(part).items():
                sums[name] += clipped
        privacy = self._mechanism.privacy
        stddev = privacy.noise_multiplier * privacy.clip_norm
        for total in sums.values():
            total[...] = noised(total, stddev, self._mechanism.noise) / self._mechanism.divisor
        return NO_LOSS

    def _clipped(self, part: Examples) -> Arrays:
        """The sum over a part; where it is not finite, over those of its examples that are finite by themselves."""
        if self._succeeds(part):
            return self._part
        sums = {name: np.zeros_like(array) for name, array in self._part.items()}
        for one in in_order(part, 1):
            if self._succeeds(one):
                for name, clipped in self._part.items():
                    sums[name] += clipped
        return sums

    def _succeeds(self, part: Examples) -> bool:
        try:
            self._bound.run(batch_feeds(part))
        except TrainingError:
            return False
        return all(np.isfinite(array).all() for array in self._part.values())
