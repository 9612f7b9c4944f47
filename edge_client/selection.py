"""Which neurons a device keeps.

`fisher`: in each group the neurons with the largest scores. `random`: uniform without replacement, the control.
How many neurons each group keeps is decided before: by the plan, and by what the device can afford.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.messages import SelectionPolicy
from wire_protocol.sub_model import SubModel

Scores = Mapping[str, NDArray[Any]]


def select(
    policy: SelectionPolicy, scores: Scores, widths: Mapping[str, int], generator: np.random.Generator
) -> SubModel:
    """Choose `widths[group]` neurons of every group in `scores` (float array [group size]).

    The random policy reads only the lengths of scores.
    Fisher's choice is deterministic: among equal scores the lower index wins. Raises `InvalidValueError` on a score
    that is not finite.
    """
    return SubModel(
        {group: _choose(policy, group, values, widths[group], generator) for group, values in scores.items()}
    )


def _choose(
    policy: SelectionPolicy, group: str, scores: NDArray[Any], count: int, generator: np.random.Generator
) -> NDArray[np.int64]:
    require(1 <= count <= len(scores), f"width of {group}", count, f"1 to {len(scores)}")
    if policy == "random":
        return np.sort(generator.choice(len(scores), size=count, replace=False))
    require(bool(np.isfinite(scores).all()), f"scores of {group}", scores.tolist(), "finite")
    return np.sort(np.argsort(-scores, kind="stable")[:count])
