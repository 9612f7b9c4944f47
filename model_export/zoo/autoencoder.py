"""The fully connected auto-encoder of MLPerf Tiny's anomaly detection (Banbury et al., 2021; Koizumi et al., 2019).

Spectrogram windows of ToyADMOS machine sounds (640 values) pass four layers of 128 units, a bottleneck of 8 and four
layers of 128 back to 640; every hidden layer has batch normalisation and rectified units. It is trained with the mean
squared error on its own input, so that sounds it has not heard give a large error.
"""

from collections import OrderedDict
from collections.abc import Sequence
from math import prod

from torch import nn

HIDDEN = (128, 128, 128, 128, 8, 128, 128, 128, 128)


def autoencoder(input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = HIDDEN) -> nn.Module:
    """Examples of any shape, which the output has too; `classes` is not used."""
    del classes
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    if len(input_shape) > 1:
        layers["flatten"] = nn.Flatten()
    inputs = prod(input_shape)
    for number, units in enumerate(hidden, start=1):
        layers[f"hidden{number}"] = nn.Linear(inputs, units)
        layers[f"norm{number}"] = nn.BatchNorm1d(units)
        layers[f"relu{number}"] = nn.ReLU()
        inputs = units
    layers["output"] = nn.Linear(inputs, prod(input_shape))
    if len(input_shape) > 1:
        layers["unflatten"] = nn.Unflatten(1, input_shape)
    return nn.Sequential(layers)
