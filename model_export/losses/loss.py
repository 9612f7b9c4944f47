"""What a loss is to the compiler: the loss of each example, its gradient by that example's output, and metrics.

The loss of a batch is the mean over examples, weighted by example weight, whatever the loss: so the gradient of a batch
is the mean of the examples' gradients, which clipping and Fisher scores rest on.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, Protocol

from model_export.autodiff.builder import GraphBuilder
from wire_protocol.bundle_manifest import LossName

TARGETS = "targets"
EXAMPLE_WEIGHTS = "example_weights"

_SMALLEST_WEIGHT = 1e-30

OutputShape = tuple[int, ...]
"""Shape of one example's output, without the batch axis. No axis of it is ever cut, so literals of it are legal."""


class LossTerms(NamedTuple):
    """`each` float32 (examples,): losses. `gradient` float32, the output's shape: of each example's loss by it."""

    each: str
    gradient: str


class Loss(Protocol):
    """Reads the tensors `output` and `targets`.

    `each` must be written in operators that onnxruntime-training differentiates too. `targets_type` is an ONNX type.
    """

    name: ClassVar[LossName]
    targets_type: ClassVar[int]

    def objection(self, output_shape: OutputShape) -> str | None:
        """Why a model with this output cannot be trained with this loss, or None."""
        ...

    def target_shape(self, output_shape: OutputShape) -> OutputShape:
        """Shape of one example's target."""
        ...

    def terms(self, g: GraphBuilder, output_shape: OutputShape) -> LossTerms:
        """Append the losses of the examples and their gradients."""
        ...

    def metrics(self, g: GraphBuilder, output_shape: OutputShape) -> dict[str, str]:
        """Append what `evaluate` sums besides the loss: float32 (examples,) by the name of the weighted sum."""
        ...


class ScaledLoss(NamedTuple):
    """`loss` is the scalar sum over examples of scale x loss; `output_gradient` its gradient by the output."""

    loss: str
    output_gradient: str


def scaled(g: GraphBuilder, loss: Loss, output_shape: OutputShape, scale: str) -> ScaledLoss:
    """Append the loss and its gradient; `scale` has shape (examples,)."""
    terms = loss.terms(g, output_shape)
    column = g.op("Unsqueeze", scale, g.sizes(*range(1, 1 + len(output_shape)))) if output_shape else scale
    return ScaledLoss(weighted_sum(g, terms.each, scale), g.op("Mul", terms.gradient, column))


def weighted_sum(g: GraphBuilder, values: str, weights: str) -> str:
    """Scalar sum of values x weights, both of shape (examples,)."""
    return g.op("ReduceSum", g.op("Mul", values, weights), keepdims=0)


def mean_scale(g: GraphBuilder) -> str:
    """Scales that make the loss a weighted mean: weight / sum of weights."""
    return g.op("Div", EXAMPLE_WEIGHTS, total_weight(g))


def total_weight(g: GraphBuilder) -> str:
    """Sum of all example weights, a scalar above 0."""
    return g.op("Max", g.op("ReduceSum", EXAMPLE_WEIGHTS, keepdims=0), g.constant(_SMALLEST_WEIGHT))
