"""Reference models by name; each is built for an input shape (without batch) and a number of classes."""

from collections.abc import Callable

from torch import nn

from model_export.zoo.autoencoder import autoencoder
from model_export.zoo.ds_cnn import ds_cnn
from model_export.zoo.gru import gru
from model_export.zoo.lenet import lenet
from model_export.zoo.lstm import lstm
from model_export.zoo.mlp import mlp
from model_export.zoo.mobilenet import mobilenet
from model_export.zoo.resnet8 import resnet8
from model_export.zoo.temporal_cnn import temporal_cnn
from model_export.zoo.transformer import transformer
from wire_protocol.bundle_manifest import LossName

ZOO: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {
    "autoencoder": autoencoder,
    "ds_cnn": ds_cnn,
    "gru": gru,
    "lenet": lenet,
    "lstm": lstm,
    "mlp": mlp,
    "mobilenet": mobilenet,
    "resnet8": resnet8,
    "temporal_cnn": temporal_cnn,
    "transformer": transformer,
}

ZOO_INPUT_SHAPES: dict[str, tuple[int, ...]] = {
    "lenet": (1, 28, 28),
    "mlp": (1, 28, 28),
    "ds_cnn": (1, 49, 10),
    "mobilenet": (3, 96, 96),
    "resnet8": (3, 32, 32),
    "autoencoder": (640,),
    "temporal_cnn": (9, 128),
    "gru": (49, 10),
    "lstm": (49, 10),
    "transformer": (32,),
}
"""The shape of one example that each model is measured and checked at."""

ZOO_LOSSES: dict[str, LossName] = {"autoencoder": "mse"}
"""The loss that a model is trained with, where it is another than cross-entropy."""
