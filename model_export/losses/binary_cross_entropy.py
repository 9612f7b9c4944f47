"""Cross-entropy of independent yes-or-no targets, from logits (Cox, 1958), the mean taken over an example's elements.

The stable form: log(1 + exp(z)) - z y = max(z, 0) - z y + log(1 + exp(-|z|)), no exponent of which is above 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from onnx import TensorProto

from model_export.autodiff.builder import GraphBuilder
from model_export.losses.elementwise import mean_of_elements, share_of_element
from model_export.losses.loss import TARGETS, LossTerms, OutputShape
from model_export.torch_trace import OUTPUT
from wire_protocol.bundle_manifest import LossName


@dataclass(frozen=True)
class BinaryCrossEntropy:
    """Output float32 (examples, ...) of logits, targets float32 of the same shape, from 0 to 1."""

    name: ClassVar[LossName] = "bce"
    targets_type: ClassVar[int] = TensorProto.FLOAT

    def objection(self, output_shape: OutputShape) -> str | None:
        """Any output will do."""
        del output_shape
        return None

    def target_shape(self, output_shape: OutputShape) -> OutputShape:
        """The output's."""
        return output_shape

    def terms(self, g: GraphBuilder, output_shape: OutputShape) -> LossTerms:
        """The stable form and (sigmoid(z) - y) / elements."""
        away = g.op("Exp", g.op("Neg", g.op("Abs", OUTPUT)))
        hinge = g.op("Sub", g.op("Relu", OUTPUT), g.op("Mul", OUTPUT, TARGETS))
        each = mean_of_elements(g, g.op("Add", hinge, g.op("Log", g.op("Add", away, g.constant(1.0)))))
        residual = g.op("Sub", g.op("Sigmoid", OUTPUT), TARGETS)
        return LossTerms(each, g.op("Mul", residual, share_of_element(g, output_shape)))

    def metrics(self, g: GraphBuilder, output_shape: OutputShape) -> dict[str, str]:
        """The share of an example's elements on the right side: logit above 0 where the target is above one half."""
        del output_shape
        sides = [g.op("Greater", OUTPUT, g.constant(0.0)), g.op("Greater", TARGETS, g.constant(0.5))]
        hits = g.op("Cast", g.op("Equal", *sides), to=TensorProto.FLOAT)
        return {"correct_sum": mean_of_elements(g, hits)}
