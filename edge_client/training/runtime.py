"""What a training runtime is: something that trains a sub-model of any width it knows on batches.

Two implementations pass one contract test: `portable` (stock onnxruntime on our gradient graph, any width) and
`ort_training` (onnxruntime-training, the widths of the bundle's rungs).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from numpy.typing import NDArray

from wire_protocol.examples import Examples
from wire_protocol.local_training import PLAIN, LocalTraining
from wire_protocol.privacy import RecordPrivacy
from wire_protocol.sub_model import Arrays


@dataclass(frozen=True)
class TrainingResult:
    """Parameters after the last step (float32, shapes as given), the mean loss over steps, and examples seen.

    `within` is the noised share of gradients that are within the clip norm, where a private run has them counted.
    """

    parameters: dict[str, NDArray[Any]]
    loss: float
    examples: int
    within: float | None = None


@dataclass(frozen=True)
class StepRule:
    """How a step is made; `gains` are those of parameters, 1 where none is named.

    See `descent`, which has the mathematics. Without arguments: parameters -= learning_rate x mean gradient.
    """

    training: LocalTraining = PLAIN
    gains: Mapping[str, float] = field(default_factory=dict)

    @property
    def is_plain(self) -> bool:
        """Whether this is stochastic gradient descent and nothing else."""
        training = self.training
        return training.optimizer == "sgd" and not (training.proximal or training.clip_gradient or self.gains)


PLAIN_STEPS = StepRule()


class TrainingRuntime(Protocol):
    """Runs training graphs of one bundle."""

    @property
    def name(self) -> str:
        """What calibrations and logs call it."""
        ...

    @property
    def privacy(self) -> RecordPrivacy | None:
        """What its results satisfy whoever reads them, None where they tell of the examples as they are."""
        ...

    def train(
        self, parameters: Arrays, batches: Iterable[Examples], learning_rate: float, rule: StepRule = PLAIN_STEPS
    ) -> TrainingResult:
        """Take one step a batch.

        `parameters` are the sub-model's float32 arrays by name and are not changed. Raises `TrainingError` when a
        loss is not finite, the runtime has no graph for these widths or cannot make steps by this rule.
        """
        ...
