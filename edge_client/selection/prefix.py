"""`prefix`: keep the first neurons of every group, so that smaller sub-models lie inside larger ones.

HeteroFL (Diao et al. 2021, "Computation and communication efficient federated learning for heterogeneous clients") and
ordered dropout (Horvath et al. 2021, "FjORD: fair and accurate federated learning under heterogeneous targets").
"""

from __future__ import annotations

import numpy as np

from edge_client.selection.policy import Ground
from wire_protocol.sub_model import SubModel


def select(ground: Ground) -> SubModel:
    """Keep the lowest indices."""
    return SubModel({group: np.arange(width) for group, width in ground.widths.items()})
