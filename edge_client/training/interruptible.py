"""Training and scoring that can be ended between two batches, as a thread cannot be ended from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf
from threading import Event
from typing import Any

from numpy.typing import NDArray

from edge_client.errors import StoppedError
from edge_client.local_update import Scorer
from edge_client.training.runtime import PLAIN_STEPS, StepRule, TrainingResult, TrainingRuntime
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays


class InterruptibleRuntime:
    """`inner`, but `train` raises `StoppedError` before the first step that begins after `stop` is set."""

    def __init__(self, inner: TrainingRuntime, stop: Event) -> None:
        self.name, self.privacy = inner.name, inner.privacy
        self._inner = inner
        self._stop = stop

    def train(
        self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float, rule: StepRule = PLAIN_STEPS
    ) -> TrainingResult:
        """See `TrainingRuntime.train`."""
        return self._inner.train(parameters, _until_stopped(batches, self._stop), learning_rate, rule)


class InterruptibleScorer:
    """`inner`, but `scores` raises `StoppedError` before the first batch that begins after `stop` is set."""

    def __init__(self, inner: Scorer, stop: Event) -> None:
        self._inner = inner
        self._stop = stop

    def scores(
        self, parameters: Arrays, batches: Iterable[Examples], clip_norm: float = inf
    ) -> dict[str, NDArray[Any]]:
        """See `Scorer.scores`."""
        return self._inner.scores(parameters, _until_stopped(batches, self._stop), clip_norm)


def _until_stopped(batches: Iterable[Examples], stop: Event) -> Iterator[Examples]:
    for batch in batches:
        if stop.is_set():
            raise StoppedError("the training was stopped")
        yield batch
