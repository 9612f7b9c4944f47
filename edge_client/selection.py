"""Which neurons a device keeps.

`fisher`: in each group the neurons with the largest scores. `random`: uniform without replacement, the control.
Both keep the same number of neurons, which the plan alone decides.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import require
from wire_protocol.messages import SelectionPolicy
from wire_protocol.sub_model import SubModel, kept_count

Scores = Mapping[str, NDArray[Any]]


def select(policy: SelectionPolicy, scores: Scores, keep: float, generator: np.random.Generator) -> SubModel:
    """Choose neurons of every group in `scores` (float array [group size]; the random policy reads only its length).

    Fisher's choice is deterministic: among equal scores the lower index wins. Raises `InvalidValueError` on a score
    that is not finite.
    """
    return SubModel({group: _choose(policy, group, values, keep, generator) for group, values in scores.items()})


def _choose(
    policy: SelectionPolicy, group: str, scores: NDArray[Any], keep: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    count = kept_count(keep, len(scores))
    if policy == "random":
        return np.sort(generator.choice(len(scores), size=count, replace=False))
    require(bool(np.isfinite(scores).all()), f"scores of {group}", scores.tolist(), "finite")
    return np.sort(np.argsort(-scores, kind="stable")[:count])
