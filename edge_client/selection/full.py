"""`full`: keep every neuron, whatever fraction the plan names: federated averaging (McMahan et al. 2017)."""

from __future__ import annotations

from edge_client.selection.policy import Ground
from wire_protocol.sub_model import SubModel, full_sub_model


def select(ground: Ground) -> SubModel:
    """Keep all."""
    return full_sub_model(ground.layout)
