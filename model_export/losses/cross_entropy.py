"""Softmax cross-entropy of integer targets (Bridle, 1990), with a weight for each class if need be.

An example's loss is multiplied by its class's weight and the batch's mean is over examples, where torch's divides by
the sum of class weights in the batch: there the weights of a device that holds one class would cancel.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import ClassVar

from onnx import TensorProto

from model_export.autodiff.builder import GraphBuilder
from model_export.losses.loss import TARGETS, LossTerms, OutputShape
from model_export.torch_trace import OUTPUT
from wire_protocol.bundle_manifest import LossName


@dataclass(frozen=True)
class CrossEntropy:
    """Output (examples, classes) of logits, targets int64 (examples,); `class_weights` has one weight a class."""

    class_weights: tuple[float, ...] | None = None

    name: ClassVar[LossName] = "cross-entropy"
    targets_type: ClassVar[int] = TensorProto.INT64

    def objection(self, output_shape: OutputShape) -> str | None:
        """Logits of at least two classes, finite weights of at least 0, one a class and not all 0."""
        if len(output_shape) != 1 or output_shape[0] < 2:
            return "logits (batch, classes >= 2)"
        weights = self.class_weights
        if weights is None:
            return None
        legal = len(weights) == output_shape[0] and all(isfinite(w) and w >= 0 for w in weights) and any(weights)
        return None if legal else f"logits of one class for each of the class weights {weights}, which are at least 0"

    def target_shape(self, output_shape: OutputShape) -> OutputShape:
        """One integer an example."""
        del output_shape
        return ()

    def terms(self, g: GraphBuilder, output_shape: OutputShape) -> LossTerms:
        """-log p(target) and p - onehot(target), both times the weight of the target's class."""
        log_probabilities = g.op("LogSoftmax", OUTPUT, axis=1)
        truth = g.op("OneHot", TARGETS, g.sizes(*output_shape), g.constant([0.0, 1.0]), axis=-1)
        picked = g.op("ReduceSum", g.op("Mul", log_probabilities, truth), g.sizes(1), keepdims=0)
        each, gradient = g.op("Neg", picked), g.op("Sub", g.op("Exp", log_probabilities), truth)
        if self.class_weights is None:
            return LossTerms(each, gradient)
        weights = g.op("Gather", g.constant(self.class_weights), TARGETS)
        column = g.op("Unsqueeze", weights, g.sizes(1))
        return LossTerms(g.op("Mul", each, weights), g.op("Mul", gradient, column))

    def metrics(self, g: GraphBuilder, output_shape: OutputShape) -> dict[str, str]:
        """1 where the largest logit is the target's."""
        del output_shape
        hits = g.op("Equal", g.op("ArgMax", OUTPUT, axis=1, keepdims=0), TARGETS)
        return {"correct_sum": g.op("Cast", hits, to=TensorProto.FLOAT)}


CROSS_ENTROPY = CrossEntropy()
"""Without class weights: the loss where none is named."""
