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
from edge_client.onnx_session import Session, feeds, open_session, run
from edge_client.training.runtime import TrainingResult
from wire_protocol.bundle_manifest import TRAIN_STEP
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays


class PortableRuntime:
    """A `TrainingRuntime` for any sub-model of the bundle."""

    name = "portable"

    def __init__(self, session: Session, layout: Layout) -> None:
        self._session = session
        self._parameters = [parameter.name for parameter in layout.parameters]
        self._outputs = ["loss", *(f"grad.{name}" for name in self._parameters)]

    @classmethod
    def open(cls, bundle_dir: Path, layout: Layout, threads: int) -> PortableRuntime:
        """Load the gradient graph of a bundle; raises `TrainingError`."""
        return cls(open_session(bundle_dir / TRAIN_STEP, threads), layout)

    def train(self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float) -> TrainingResult:
        """See `TrainingRuntime.train`."""
        trained = {name: np.array(parameters[name], dtype=np.float32) for name in self._parameters}
        losses: list[float] = []
        examples = 0
        for batch in batches:
            try:
                losses.append(self._step(trained, batch, np.float32(learning_rate)))
            except TrainingError as error:
                raise TrainingError(_why(error, steps=len(losses))) from error
            examples += len(batch)
        if not losses:
            raise TrainingError("there is no batch to train on, expected at least one")
        return TrainingResult(trained, float(np.mean(losses)), examples)

    def _step(self, trained: dict[str, NDArray[Any]], batch: Examples, learning_rate: np.float32) -> float:
        loss, *gradients = run(self._session, self._outputs, feeds(trained, batch))
        if not isfinite(float(loss)):
            raise TrainingError(f"the loss is {float(loss)}")
        with np.errstate(over="ignore", invalid="ignore"):
            for name, gradient in zip(self._parameters, gradients, strict=True):
                trained[name] -= learning_rate * gradient
        return float(loss)


def _why(error: TrainingError, steps: int) -> str:
    """After a step that went well only the values can have gone bad: pooling, for one, fails on NaN."""
    return f"training diverged after {steps} steps; a lower learning rate may help: {error}" if steps else str(error)
