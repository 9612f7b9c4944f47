"""Local SGD on stock onnxruntime: the bundle's gradient graph gives loss and gradients, numpy takes the step.

One graph serves every width, as its neuron axes are symbolic.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.errors import TrainingError
from edge_client.onnx_session import BoundRun, Session, batch_feeds, open_session
from edge_client.training.runtime import TrainingResult
from wire_protocol.bundle_manifest import TRAIN_STEP
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays

_CACHE_LINE = 16
"""Numbers."""


class PortableRuntime:
    """A `TrainingRuntime` for any sub-model of the bundle."""

    name = "portable"

    def __init__(self, session: Session, layout: Layout) -> None:
        self._session = session
        self._parameters = [parameter.name for parameter in layout.parameters]

    @classmethod
    def open(cls, bundle_dir: Path, layout: Layout, threads: int) -> PortableRuntime:
        """Load the gradient graph of a bundle; raises `TrainingError`."""
        return cls(open_session(bundle_dir / TRAIN_STEP, threads), layout)

    def train(self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float) -> TrainingResult:
        """See `TrainingRuntime.train`."""
        given = {name: np.asarray(parameters[name], dtype=np.float32) for name in self._parameters}
        descent = _Descent(self._session, given, learning_rate)
        losses: list[float] = []
        examples = 0
        for batch in batches:
            try:
                losses.append(descent.step(batch))
            except TrainingError as error:
                raise TrainingError(_why(error, steps=len(losses))) from error
            examples += len(batch)
        if not losses:
            raise TrainingError("there is no batch to train on, expected at least one")
        return TrainingResult(descent.trained, float(np.mean(losses)), examples)


class _Descent:
    """Steps of SGD from a copy of `given`. All weights are one vector, and so are all gradients."""

    def __init__(self, session: Session, given: Arrays, learning_rate: float) -> None:
        self._rate = np.float32(learning_rate)
        self._weights, self.trained = _one_vector(given)
        self._gradients, parts = _one_vector(given)
        self._loss = np.zeros((), dtype=np.float32)
        for name, array in given.items():
            self.trained[name][...] = array
        outputs = {"loss": self._loss, **{f"grad.{name}": part for name, part in parts.items()}}
        self._bound = BoundRun(session, self.trained, outputs)

    def step(self, batch: Examples) -> float:
        """Take one step and return the loss before it."""
        self._bound.run(batch_feeds(batch))
        loss = float(self._loss)
        if not isfinite(loss):
            raise TrainingError(f"the loss is {loss}")
        with np.errstate(over="ignore", invalid="ignore"):
            np.multiply(self._gradients, self._rate, out=self._gradients)
            np.subtract(self._weights, self._gradients, out=self._weights)
        return loss


def _one_vector(arrays: Arrays) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
    """Zeros with room for these arrays, and views of their shapes into it, each from a cache line on."""
    starts = np.cumsum([0, *(-(-array.size // _CACHE_LINE) * _CACHE_LINE for array in arrays.values())]).tolist()
    vector = np.zeros(starts.pop(), dtype=np.float32)
    return vector, {
        name: vector[start : start + array.size].reshape(array.shape)
        for start, (name, array) in zip(starts, arrays.items(), strict=True)
    }


def _why(error: TrainingError, steps: int) -> str:
    """After a step that went well only the values can have gone bad: pooling, for one, fails on NaN."""
    return f"training diverged after {steps} steps; a lower learning rate may help: {error}" if steps else str(error)
