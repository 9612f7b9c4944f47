"""Reference models by name; each is built for an input shape (without batch) and a number of classes."""

from collections.abc import Callable

from torch import nn

from model_export.zoo.lenet import lenet
from model_export.zoo.mlp import mlp

ZOO: dict[str, Callable[[tuple[int, ...], int], nn.Module]] = {"lenet": lenet, "mlp": mlp}
