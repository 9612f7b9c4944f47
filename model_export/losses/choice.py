"""A loss by the name that the command line and the manifest have for it."""

from __future__ import annotations

from collections.abc import Sequence

from model_export.errors import ExportError
from model_export.losses.binary_cross_entropy import BinaryCrossEntropy
from model_export.losses.cross_entropy import CrossEntropy
from model_export.losses.loss import Loss
from model_export.losses.mean_squared_error import MeanSquaredError
from wire_protocol.bundle_manifest import LossName


def choose_loss(name: LossName, class_weights: Sequence[float] | None = None) -> Loss:
    """The loss of this name; raises `ExportError` for class weights without classes."""
    if name == "cross-entropy":
        return CrossEntropy(None if class_weights is None else tuple(class_weights))
    if class_weights is not None:
        raise ExportError(f"class weights are for the loss cross-entropy, got them with {name}")
    return MeanSquaredError() if name == "mse" else BinaryCrossEntropy()
