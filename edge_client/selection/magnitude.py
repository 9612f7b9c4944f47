"""`magnitude`: keep the neurons whose own parameters are largest in the model as it came.

The score of a neuron is the L1 norm of its incoming weights and bias (Li et al. 2017, "Pruning filters for efficient
ConvNets"). All devices with the same widths keep the same neurons.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_client.selection.policy import Ground, first_of
from wire_protocol.layout import CutAxis, Layout
from wire_protocol.neuron_scores import rank
from wire_protocol.sub_model import Arrays, SubModel


def select(ground: Ground) -> SubModel:
    """Keep the largest neurons of every group."""
    return first_of(rank(_norms(ground.layout, ground.parameters)), ground.widths)


def _norms(layout: Layout, parameters: Arrays) -> dict[str, NDArray[Any]]:
    norms = {group: np.zeros(size) for group, size in layout.group_sizes.items()}
    for parameter in layout.parameters:
        for cut in parameter.cuts:
            if cut.produces:
                norms[cut.group] += _by_neuron(np.abs(parameters[parameter.name]), cut)
    return norms


def _by_neuron(values: NDArray[Any], cut: CutAxis) -> NDArray[Any]:
    """Sums over all entries that belong to each neuron of the axis cut."""
    rows = np.moveaxis(values, cut.axis, 0)
    rows = rows.reshape(cut.repeat, len(rows) // cut.entries, -1)
    return np.asarray(rows.sum(axis=(0, 2), dtype=np.float64))
