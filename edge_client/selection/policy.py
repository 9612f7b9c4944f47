"""What a selection policy is: a function from what a device knows to the neurons it keeps.

How many neurons are kept of each group is decided before; a policy decides which. Chance comes from the generator
given, so equal arguments give equal choices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.layout import Layout
from wire_protocol.neuron_scores import Scores
from wire_protocol.sub_model import Arrays, Indices, SubModel


@dataclass(frozen=True)
class Ground:
    """What a choice can rest on.

    `widths` says how many neurons to keep of every group. `parameters` is the whole model of the round and
    `resync_round` (from 1) the round that the choice is for. `score` scores all neurons on the device's examples, at
    the cost of a pass over them; call it only where scores matter. `ranking` is the fleet's own order of every group's
    neurons, empty where the plan brought none.
    """

    layout: Layout
    widths: Mapping[str, int]
    parameters: Arrays
    resync_round: int
    generator: np.random.Generator
    score: Callable[[], Scores]
    ranking: Mapping[str, Indices]


Policy = Callable[[Ground], SubModel]
"""Chooses `widths[group]` neurons of every group of the layout; raises `InvalidValueError` on scores not finite."""


def first_of(ranking: Mapping[str, NDArray[Any]], widths: Mapping[str, int]) -> SubModel:
    """Keep the front of every group's ranking."""
    return SubModel({group: np.sort(ranking[group][:width]) for group, width in widths.items()})
