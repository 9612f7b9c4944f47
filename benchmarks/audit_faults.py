"""Private training with mistakes that have been made before, each of which an audit ought to find."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

import numpy as np

from edge_client.local_data import in_order
from edge_client.local_update import LocalWork
from edge_client.onnx_session import Graph, batch_feeds
from edge_client.privacy.clip_count import ClipCount
from edge_client.privacy.mechanism import Mechanism
from edge_client.privacy.noised_gradient import NO_LOSS, NoisedGradient
from edge_client.privacy.record_training import RecordTraining
from edge_client.training.descent import Descent, Memory
from edge_client.training.runtime import PLAIN_STEPS, StepRule, TrainingResult, TrainingRuntime
from wire_protocol.examples import Examples
from wire_protocol.privacy import RecordPrivacy
from wire_protocol.sub_model import Arrays

_NEVER_CLIPPED = 1e30


class DividesByTheDrawn(NoisedGradient):
    """Divides by the number of records that were drawn."""

    def make(self, batch: Examples) -> float:
        """See `Gradient.make`."""
        loss = super().make(batch)
        for total in self._memory.gradients.values():
            np.multiply(total, self._mechanism.divisor / max(1, len(batch)), out=total)
        return loss


class ClipsEachParameter(NoisedGradient):
    """Clips the gradient of each parameter by itself and not all together."""

    def __init__(self, session: Graph, mechanism: Mechanism, count: ClipCount | None, memory: Memory) -> None:
        super().__init__(session, mechanism, count, memory)
        self._bound_norm = mechanism.privacy.clip_norm
        self._clip_norm[...] = _NEVER_CLIPPED

    def _add_clipped(self, part: Examples) -> int:
        for one in in_order(part, 1):
            self._bound.run(batch_feeds(one))
            for name, gradient in self._part.items():
                factor = min(1.0, self._bound_norm / float(np.linalg.norm(gradient)))
                self._memory.gradients[name] += gradient * factor
        return 0


class FaultyTraining:
    """A `TrainingRuntime` that claims what `RecordTraining` gives, by another gradient."""

    name = "faulty"

    def __init__(self, kind: type[NoisedGradient], session: Graph, work: LocalWork) -> None:
        assert isinstance(work.plan.privacy, RecordPrivacy)
        self.privacy = work.plan.privacy
        self._open = partial(kind, session, Mechanism(self.privacy, work.divisor, work.noise), None)

    def train(
        self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float, rule: StepRule = PLAIN_STEPS
    ) -> TrainingResult:
        """See `TrainingRuntime.train`."""
        descent = Descent(self._open, parameters, learning_rate, rule)
        for batch in batches:
            descent.step(batch)
        return TrainingResult(descent.parameters(), NO_LOSS, examples=0)


def with_a_seed(session: Graph, work: LocalWork) -> TrainingRuntime:
    """Noise by a seed that is the same in every round."""
    assert isinstance(work.plan.privacy, RecordPrivacy)
    return RecordTraining(session, Mechanism(work.plan.privacy, work.divisor, np.random.default_rng(0)))
