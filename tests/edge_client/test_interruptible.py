from threading import Event

import numpy as np
import pytest

from edge_client.errors import TrainingError
from edge_client.training.interruptible import InterruptibleRuntime, InterruptibleScorer
from edge_client.training.runtime import TrainingResult
from edge_client.training.step_pacer import StepPacer
from wire_protocol.examples import Examples

BATCH = Examples(np.zeros((1, 1), np.float32), np.zeros(1, np.int64))


class Counting:
    """Counts steps; sets `stop` in step `stop_in`."""

    name, privacy = "counting", None

    def __init__(self, stop: Event, stop_in: int) -> None:
        self._stop = stop
        self._stop_in = stop_in
        self.steps = 0

    def train(self, parameters, batches, learning_rate, rule=None) -> TrainingResult:  # noqa: ARG002
        for _ in batches:
            self.steps += 1
            if self.steps == self._stop_in:
                self._stop.set()
        return TrainingResult(dict(parameters), learning_rate, self.steps)

    def scores(self, parameters, batches, clip_norm):  # noqa: ARG002
        self.train(parameters, batches, 1.0)
        return {"steps": np.array([self.steps])}


def test_without_a_stop_every_batch_is_trained():
    stop = Event()
    runtime = InterruptibleRuntime(Counting(stop, stop_in=99), StepPacer(stop))
    assert runtime.name == "counting"
    assert runtime.train({}, [BATCH] * 5, 0.5) == TrainingResult({}, 0.5, 5)


def test_no_step_begins_after_the_stop():
    stop = Event()
    inner = Counting(stop, stop_in=2)
    with pytest.raises(TrainingError, match="stopped"):
        InterruptibleRuntime(inner, StepPacer(stop)).train({}, [BATCH] * 5, 0.5)
    assert inner.steps == 2


def test_scoring_ends_in_the_same_way():
    stop = Event()
    assert InterruptibleScorer(Counting(stop, stop_in=99), StepPacer(stop)).scores({}, [BATCH] * 5) == {"steps": 5}
    inner = Counting(stop, stop_in=2)
    with pytest.raises(TrainingError, match="stopped"):
        InterruptibleScorer(inner, StepPacer(stop)).scores({}, [BATCH] * 5)
    assert inner.steps == 2
