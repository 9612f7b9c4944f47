"""FedAvg (McMahan, Moore, Ramage, Hampson and Agüera y Arcas 2017, "Communication-Efficient Learning of Deep Networks
from Decentralized Data", algorithm 1): x <- x + eta D, with D the fleet's mean difference and eta 1 in the paper."""

from __future__ import annotations

from dataclasses import dataclass

from server.aggregation.rule import Aggregate
from server.server_optimizers.optimizer import Parameters, State, step
from wire_protocol.sub_model import Arrays


@dataclass(frozen=True)
class FedAvg:
    """Remembers nothing. See `ServerOptimizer`."""

    learning_rate: float = 1.0
    moments = ()

    def init(self, parameters: Arrays) -> State:
        """No state."""
        del parameters
        return {}

    def apply(self, parameters: Arrays, aggregate: Aggregate, state: State) -> tuple[Parameters, State]:
        """See `ServerOptimizer`."""
        moved = {
            name: step(array, self.learning_rate * aggregate.difference[name], aggregate.trained[name])
            for name, array in parameters.items()
        }
        return dict(moved), state
