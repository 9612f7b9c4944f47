"""Evaluate a full model on held-out examples with the bundle's `evaluate.onnx`.

`onnxruntime` is loaded by the first `Evaluator`, not on import: its training build brings torch with it where torch is
installed, which a server that evaluates nothing should not wait for.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from server.errors import BundleError
from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays

BATCH_SIZE = 256


@dataclass(frozen=True)
class Evaluation:
    """`accuracy` in [0, 1], None for a loss without right answers, and mean `loss` over all examples."""

    accuracy: float | None
    loss: float


class Evaluator:
    """A session on one `evaluate.onnx`; `threads` is what one operator may use (at least 1)."""

    def __init__(self, graph: Path, threads: int = 1) -> None:
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        try:
            self._session = onnxruntime.InferenceSession(
                str(graph), sess_options=options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own exceptions have no common parent
            reason = str(error).splitlines()[0]
            raise BundleError(f"{graph} cannot be opened by onnxruntime: {reason}") from error
        self._sums = [output.name for output in self._session.get_outputs()]

    def evaluate(self, parameters: Arrays, examples: Examples) -> Evaluation:
        """Accuracy and loss of full float32 `parameters`; batches are padded with examples of weight 0."""
        totals = np.zeros(len(self._sums))
        for start in range(0, len(examples), BATCH_SIZE):
            feed = _batch(examples, start) | dict(parameters)
            totals += [float(output) for output in self._session.run(self._sums, feed)]
        sums = dict(zip(self._sums, totals.tolist(), strict=True))
        correct, weight = sums.get("correct_sum"), sums["weight_sum"]
        return Evaluation(accuracy=None if correct is None else correct / weight, loss=sums["loss_sum"] / weight)


def _batch(examples: Examples, start: int) -> dict[str, Any]:
    size = min(BATCH_SIZE, len(examples))
    x, y = examples.x[start : start + size], examples.y[start : start + size]
    missing = size - len(y)
    return {
        "batch": np.pad(x, [(0, missing)] + [(0, 0)] * (x.ndim - 1)),
        "targets": np.pad(y, [(0, missing)] + [(0, 0)] * (y.ndim - 1)),
        "example_weights": np.pad(np.ones(len(y), dtype=np.float32), (0, missing)),
    }
