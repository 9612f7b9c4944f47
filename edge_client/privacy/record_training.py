"""Private training of records: local steps by noised gradients (`noised_gradient`) on stock onnxruntime, any width."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from edge_client.errors import TrainingError
from edge_client.onnx_session import Graph, open_session
from edge_client.privacy.clip_count import ClipCount
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.noised_gradient import NO_LOSS, NoisedGradient
from edge_client.processors import ONE_THREAD, Processors
from edge_client.training.descent import Descent
from edge_client.training.runtime import PLAIN_STEPS, StepRule, TrainingResult
from wire_protocol.bundle_manifest import PRIVATE_STEP
from wire_protocol.examples import Examples
from wire_protocol.privacy import RecordPrivacy
from wire_protocol.sub_model import Arrays


class RecordTraining:
    """A `TrainingRuntime` whose parameters satisfy `privacy`, if its batches are Poisson batches at that rate.

    Its results say nothing else of the examples: no loss, no count that has no noise.
    """

    name = "private"

    def __init__(self, session: Graph, mechanism: Mechanism) -> None:
        self._session = session
        self._mechanism = mechanism

    @property
    def privacy(self) -> RecordPrivacy:
        """What the parameters after training satisfy."""
        return self._mechanism.privacy

    def train(
        self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float, rule: StepRule = PLAIN_STEPS
    ) -> TrainingResult:
        """See `TrainingRuntime.train`; parameters may end up not finite, which is not an error here."""
        given = {name: np.asarray(array, dtype=np.float32) for name, array in parameters.items()}
        mechanism, count_noise = self._mechanism, self.privacy.count_noise_multiplier
        count = ClipCount(count_noise, mechanism.noise) if count_noise else None
        descent = Descent(partial(NoisedGradient, self._session, mechanism, count), given, learning_rate, rule)
        steps = 0
        for batch in batches:
            descent.step(batch)
            steps += 1
        if not steps:
            raise TrainingError("there is no batch to train on, expected at least one")
        within = None if count is None else count.share(mechanism.divisor)
        return TrainingResult(descent.parameters(), NO_LOSS, examples=0, within=within)


def open_step(bundle_dir: Path, processors: Processors = ONE_THREAD) -> Graph:
    """Load the private graph of a bundle, on the processor always; raises `TrainingError`.

    That a gradient is no longer than the clip norm is what privacy rests on, and is not left to a GPU's arithmetic.
    """
    return open_session(bundle_dir / PRIVATE_STEP, processors.on_cpu)
