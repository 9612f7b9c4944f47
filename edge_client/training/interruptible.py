"""Training and scoring that rest or end between two batches, as a thread cannot be held or ended from outside."""

from __future__ import annotations

from collections.abc import Iterable
from math import inf
from typing import Any

from numpy.typing import NDArray

from edge_client.local_update import Scorer
from edge_client.training.runtime import PLAIN_STEPS, StepRule, TrainingResult, TrainingRuntime
from edge_client.training.step_pacer import StepPacer
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays


class InterruptibleRuntime:
    """`inner` at the pacer's pace: `train` raises what `StepPacer` does; `steps` are to come where that is known."""

    def __init__(self, inner: TrainingRuntime, pacer: StepPacer, steps: int = 0) -> None:
        self.name, self.privacy = inner.name, inner.privacy
        self._inner, self._pacer, self._steps = inner, pacer, steps

    def train(
        self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float, rule: StepRule = PLAIN_STEPS
    ) -> TrainingResult:
        """See `TrainingRuntime.train`."""
        return self._inner.train(parameters, self._pacer.paced(batches, self._steps), learning_rate, rule)


class InterruptibleScorer:
    """`inner` at the pacer's pace; `scores` raises what `StepPacer` does."""

    def __init__(self, inner: Scorer, pacer: StepPacer) -> None:
        self._inner, self._pacer = inner, pacer

    def scores(
        self, parameters: Arrays, batches: Iterable[Examples], clip_norm: float = inf
    ) -> dict[str, NDArray[Any]]:
        """See `Scorer.scores`."""
        return self._inner.scores(parameters, self._pacer.paced(batches), clip_norm)
