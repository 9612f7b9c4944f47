"""FedAvgM, server momentum.

Hsu, Qi and Brown 2019, "Measuring the Effects of Non-Identical Data Distribution for Federated Visual Classification"::

    v <- beta v + D
    x <- x + eta v

with D the fleet's mean difference (the paper writes it with the opposite sign). Steps add up to eta / (1 - beta) times
as much as FedAvg's, so a learning rate that suited FedAvg may be too large here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from server.aggregation.rule import Aggregate
from server.server_optimizers.optimizer import Parameters, State, filled, key, step
from wire_protocol.sub_model import Arrays

_MOMENTUM = "momentum"


@dataclass(frozen=True)
class FedAvgM:
    """`momentum` is beta, at least 0 and below 1. See `ServerOptimizer`."""

    learning_rate: float = 1.0
    momentum: float = 0.9
    moments = (_MOMENTUM,)

    def init(self, parameters: Arrays) -> State:
        """Momentum 0."""
        return filled(_MOMENTUM, 0.0, parameters)

    def apply(self, parameters: Arrays, aggregate: Aggregate, state: State) -> tuple[Parameters, State]:
        """See `ServerOptimizer`."""
        moved: Parameters = {}
        after: dict[str, NDArray[np.float64]] = {}
        for name, array in parameters.items():
            difference, trained = aggregate.difference[name], aggregate.trained[name]
            before = state[key(_MOMENTUM, name)]
            momentum = np.where(trained, self.momentum * before + difference, before)
            moved[name] = step(array, self.learning_rate * momentum, trained)
            after[key(_MOMENTUM, name)] = momentum
        return moved, after
