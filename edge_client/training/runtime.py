"""What a training runtime is: something that runs local SGD on a sub-model of any width it knows.

Two implementations pass one contract test: `portable` (stock onnxruntime on our gradient graph, any width) and
`ort_training` (onnxruntime-training, the widths of the bundle's rungs).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray

from wire_protocol.examples import Examples
from wire_protocol.sub_model import Arrays


@dataclass(frozen=True)
class TrainingResult:
    """Parameters after the last step (float32, shapes as given), the mean loss over steps, and examples seen."""

    parameters: dict[str, NDArray[Any]]
    loss: float
    examples: int


class TrainingRuntime(Protocol):
    """Runs training graphs of one bundle."""

    name: str

    def train(self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float) -> TrainingResult:
        """Take one step of SGD (Robbins and Monro, 1951) a batch: parameters -= learning_rate x mean gradient.

        `parameters` are the sub-model's float32 arrays by name and are not changed. Raises `TrainingError` when a
        loss is not finite or the runtime has no graph for these widths.
        """
        ...
