"""A multilayer perceptron (Rumelhart et al., 1986) with rectified units (Glorot, Bordes and Bengio, 2011)."""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn

from model_export.zoo.initial_weights import draw_he_weights

HIDDEN = (256, 128)


def mlp(input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = HIDDEN) -> nn.Module:
    """Examples of any shape, flattened; logits of shape (batch, classes)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    inputs = prod(input_shape)
    for number, units in enumerate(hidden, start=1):
        layers[f"hidden{number}"] = nn.Linear(inputs, units)
        layers[f"relu{number}"] = nn.ReLU()
        inputs = units
    layers["output"] = nn.Linear(inputs, classes)
    for reader in [layer for layer in layers.values() if isinstance(layer, nn.Linear)][1:]:
        draw_he_weights(reader)
    return nn.Sequential(layers)
