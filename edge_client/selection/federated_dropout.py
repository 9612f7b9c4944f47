"""`random`: keep neurons drawn uniformly without replacement, afresh on every device.

Federated Dropout (Caldas et al. 2018, "Expanding the reach of federated learning by reducing client resource
requirements").
"""

from __future__ import annotations

import numpy as np

from edge_client.selection.policy import Ground
from wire_protocol.sub_model import SubModel


def select(ground: Ground) -> SubModel:
    """Draw the neurons of every group."""
    sizes = ground.layout.group_sizes
    draw = ground.generator.choice
    return SubModel(
        {group: np.sort(draw(sizes[group], size=width, replace=False)) for group, width in ground.widths.items()}
    )
