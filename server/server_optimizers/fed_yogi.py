"""FedYogi (Reddi et al. 2021, algorithm 2): v <- v - (1 - beta2) D^2 sign(v - D^2). The rest is in `adaptive`.

v changes by no more than (1 - beta2) D^2, so after a large difference it falls more slowly than FedAdam's.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from server.aggregation.rule import Aggregate
from server.server_optimizers.adaptive import FIRST, SECOND, AdaptiveSettings, adaptive_step, initial_state
from server.server_optimizers.optimizer import Parameters, State
from wire_protocol.sub_model import Arrays


@dataclass(frozen=True)
class FedYogi:
    """See `ServerOptimizer`."""

    settings: AdaptiveSettings = field(default_factory=AdaptiveSettings)
    moments = (FIRST, SECOND)

    def init(self, parameters: Arrays) -> State:
        """See `initial_state`."""
        return initial_state(self.settings, parameters)

    def apply(self, parameters: Arrays, aggregate: Aggregate, state: State) -> tuple[Parameters, State]:
        """See `ServerOptimizer`."""
        rate = 1 - self.settings.second_momentum
        return adaptive_step(
            self.settings,
            parameters,
            aggregate,
            state,
            lambda second, square: second - rate * square * np.sign(second - square),
        )
