"""The mean gradient of a batch, by the bundle's gradient graph."""

from __future__ import annotations

from math import isfinite

import numpy as np

from edge_client.errors import TrainingError
from edge_client.onnx_session import BoundRun, Graph, batch_feeds
from edge_client.training.descent import Memory
from wire_protocol.examples import Examples


class MeanGradient:
    """A `Gradient`; the graph reads the parameters where they stand and writes gradients where they are wanted."""

    def __init__(self, session: Graph, memory: Memory) -> None:
        self._loss = np.zeros((), dtype=np.float32)
        outputs = {"loss": self._loss, **{f"grad.{name}": part for name, part in memory.gradients.items()}}
        self._bound = BoundRun(session, memory.parameters, outputs)

    def make(self, batch: Examples) -> float:
        """See `Gradient.make`."""
        self._bound.run(batch_feeds(batch))
        loss = float(self._loss)
        if not isfinite(loss):
            raise TrainingError(f"the loss is {loss}")
        return loss
