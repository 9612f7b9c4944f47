"""The model that a run begins with: the bundle's weights, and for sub-models larger ones. Pure.

A layer's initial weights are drawn for all the units that it reads. In a sub-model it reads a part of them, so signals
shrink from layer to layer, and neurons are chosen and training begins with hardly any gradient. Weights that read
hidden neurons are larger by one factor for all; 1.6 did best where a quarter was kept (docs/results.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays


def initial_model(layout: Layout, weights: Arrays, scale: float) -> dict[str, NDArray[Any]]:
    """Full float32 `weights`, those that read a group of neurons times `scale`."""
    readers = {parameter.name for parameter in layout.parameters if parameter.reads_neurons}
    return {name: array * np.float32(scale) if name in readers else array for name, array in weights.items()}
