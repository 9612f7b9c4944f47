"""A training runtime that can be ended between two steps, as a thread cannot be ended from outside."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from threading import Event

from edge_client.errors import TrainingError
from edge_client.training.runtime import TrainingResult, TrainingRuntime
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays


class InterruptibleRuntime:
    """`inner`, but `train` raises `TrainingError` before the first step that begins after `stop` is set."""

    def __init__(self, inner: TrainingRuntime, stop: Event) -> None:
        self.name = inner.name
        self._inner = inner
        self._stop = stop

    def train(self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float) -> TrainingResult:
        """See `TrainingRuntime.train`."""
        return self._inner.train(parameters, self._until_stopped(batches), learning_rate)

    def _until_stopped(self, batches: Iterable[Examples]) -> Iterator[Examples]:
        for batch in batches:
            if self._stop.is_set():
                raise TrainingError("the training was stopped")
            yield batch
