"""Local training on stock onnxruntime: the bundle's gradient graph gives loss and gradients, numpy takes the step.

One graph serves every width, as its neuron axes are symbolic.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np

from edge_client.errors import TrainingError
from edge_client.onnx_session import Graph, open_session, provider_of
from edge_client.processors import ONE_THREAD, Processors
from edge_client.training.descent import Descent
from edge_client.training.mean_gradient import MeanGradient
from edge_client.training.runtime import PLAIN_STEPS, StepRule, TrainingResult
from wire_protocol.bundle_manifest import TRAIN_STEP
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays


class PortableRuntime:
    """A `TrainingRuntime` for any sub-model of the bundle."""

    privacy = None

    def __init__(self, session: Graph, layout: Layout) -> None:
        self._session = session
        self._parameters = [parameter.name for parameter in layout.parameters]

    @classmethod
    def open(cls, bundle_dir: Path, layout: Layout, processors: Processors = ONE_THREAD) -> PortableRuntime:
        """Load the gradient graph of a bundle; raises `TrainingError`."""
        return cls(open_session(bundle_dir / TRAIN_STEP, processors), layout)

    @property
    def name(self) -> str:
        """See `TrainingRuntime.name`; on a GPU its provider follows a slash."""
        provider = provider_of(self._session)
        return "portable" if provider == "cpu" else f"portable/{provider}"

    def train(
        self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float, rule: StepRule = PLAIN_STEPS
    ) -> TrainingResult:
        """See `TrainingRuntime.train`."""
        given = {name: np.asarray(parameters[name], dtype=np.float32) for name in self._parameters}
        descent = Descent(partial(MeanGradient, self._session), given, learning_rate, rule)
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
        return TrainingResult(descent.parameters(), float(np.mean(losses)), examples)


def _why(error: TrainingError, steps: int) -> str:
    """After a step that went well only the values can have gone bad: pooling, for one, fails on NaN."""
    return f"training diverged after {steps} steps; a lower learning rate may help: {error}" if steps else str(error)
