"""`fisher`: keep the neurons whose own parameters carry most Fisher information on the device's examples.

The score of a neuron is the empirical diagonal Fisher information (Kirkpatrick et al. 2017, "Overcoming catastrophic
forgetting in neural networks") of its incoming weights and bias, summed (`edge_client.fisher`). The choice is
deterministic: among equal scores the lower index wins.
"""

from __future__ import annotations

import numpy as np

from edge_client.selection.policy import Ground, first_of
from wire_protocol.errors import require
from wire_protocol.neuron_scores import rank
from wire_protocol.sub_model import SubModel


def select(ground: Ground) -> SubModel:
    """Keep the largest scores of every group."""
    scores = ground.score()
    for group, values in scores.items():
        require(bool(np.isfinite(values).all()), f"scores of {group}", values.tolist(), "finite")
    return first_of(rank(scores), ground.widths)
