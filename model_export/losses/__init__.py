"""Losses that a bundle's graphs are trained with, one small file each behind the protocol of `loss`."""

from model_export.losses.binary_cross_entropy import BinaryCrossEntropy
from model_export.losses.cross_entropy import CROSS_ENTROPY, CrossEntropy
from model_export.losses.loss import Loss
from model_export.losses.mean_squared_error import MeanSquaredError

__all__ = ["CROSS_ENTROPY", "BinaryCrossEntropy", "CrossEntropy", "Loss", "MeanSquaredError"]
