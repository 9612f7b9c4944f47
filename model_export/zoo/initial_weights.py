"""Initial weights of layers that read rectified units, by which signals keep their size from layer to layer.

He, Zhang, Ren and Sun 2015, "Delving deep into rectifiers": uniform within sqrt(6 / inputs) of 0. What torch gives a
layer by itself is smaller by sqrt(6), so that signals shrink at every layer and training starts slowly, the more so in
a sub-model, whose layers read fewer units (docs/results.md).
"""

from __future__ import annotations

from torch import nn


def draw_he_weights(layer: nn.Conv2d | nn.Linear) -> None:
    """Draw the layer's weights anew, in place, from torch's generator."""
    nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
