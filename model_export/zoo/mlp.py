"""A multilayer perceptron (Rumelhart et al., 1986) with rectified units (Glorot, Bordes and Bengio, 2011)."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import nn

HIDDEN = (128, 64)


def mlp(input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = HIDDEN) -> nn.Module:
    """Examples of any shape, flattened; logits of shape (batch, classes)."""
    widths = [prod(input_shape), *hidden]
    layers: list[nn.Module] = [nn.Flatten()]
    for inputs, outputs in pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(widths[-1], classes))
