"""`rolling`: keep a window of neighbouring neurons that moves on by one neuron a round and wraps around.

FedRolex (Alam et al. 2022, "FedRolex: model-heterogeneous federated learning with rolling sub-model extraction"). As
neurons are chosen at resyncs only, the window moves by as many neurons as rounds have passed since the last one.
"""

from __future__ import annotations

import numpy as np

from edge_client.selection.policy import Ground
from wire_protocol.sub_model import SubModel


def select(ground: Ground) -> SubModel:
    """Keep the window of the resync round."""
    sizes, first = ground.layout.group_sizes, ground.resync_round - 1
    return SubModel(
        {group: np.sort((first + np.arange(width)) % sizes[group]) for group, width in ground.widths.items()}
    )
