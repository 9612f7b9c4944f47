"""How the server moves the model by the fleet's mean difference.

Federated averaging (McMahan et al. 2017, "Communication-Efficient Learning of Deep Networks from Decentralized Data"):
the new model is the old one plus the mean difference.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.sub_model import Arrays


def federated_averaging(parameters: Arrays, mean_difference: Arrays) -> dict[str, NDArray[Any]]:
    """New float32 parameters by name; neither argument is changed, and both have the same names and shapes."""
    return {name: np.add(array, mean_difference[name], dtype=np.float32) for name, array in parameters.items()}
