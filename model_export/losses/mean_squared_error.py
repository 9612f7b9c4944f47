"""Mean squared error of float targets (Gauss, 1809), the mean taken over the elements of an example."""

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
class MeanSquaredError:
    """Output and targets float32 (examples, ...) of any shape."""

    name: ClassVar[LossName] = "mse"
    targets_type: ClassVar[int] = TensorProto.FLOAT

    def objection(self, output_shape: OutputShape) -> str | None:
        """Any output will do."""
        del output_shape
        return None

    def target_shape(self, output_shape: OutputShape) -> OutputShape:
        """The output's."""
        return output_shape

    def terms(self, g: GraphBuilder, output_shape: OutputShape) -> LossTerms:
        """(output - target)^2 and 2 (output - target) / elements."""
        difference = g.op("Sub", OUTPUT, TARGETS)
        each = mean_of_elements(g, g.op("Mul", difference, difference))
        return LossTerms(each, g.op("Mul", difference, share_of_element(g, output_shape, 2.0)))

    def metrics(self, g: GraphBuilder, output_shape: OutputShape) -> dict[str, str]:
        """Mean absolute error of each example."""
        del output_shape
        return {"absolute_error_sum": mean_of_elements(g, g.op("Abs", g.op("Sub", OUTPUT, TARGETS)))}
