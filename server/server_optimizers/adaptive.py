"""What FedAdam and FedYogi share (Reddi, Charles, Zaheer, Garrett, Rush, Konečný, Kumar and McMahan 2021, "Adaptive
Federated Optimization", algorithm 2)::

    m <- beta1 m + (1 - beta1) D
    v <- see fed_adam, fed_yogi
    x <- x + eta m / (sqrt(v) + tau)

with D the fleet's mean difference, m starting at 0 and v at tau^2. As in the paper there is no correction of m's start.
tau bounds how far a coordinate of tiny differences is moved: the step is about eta D / tau there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from server.aggregation.rule import Aggregate
from server.server_optimizers.optimizer import Parameters, State, filled, key, step
from wire_protocol.sub_model import Arrays

FIRST, SECOND = "first_moment", "second_moment"

NextSecondMoment = Callable[[NDArray[np.float64], NDArray[Any]], NDArray[Any]]
"""From v and D^2 to the next v."""


@dataclass(frozen=True)
class AdaptiveSettings:
    """eta, beta1, beta2 and tau of the paper; eta and tau above 0, the betas at least 0 and below 1."""

    learning_rate: float = 0.01
    momentum: float = 0.9
    second_momentum: float = 0.99
    adaptivity: float = 1e-3


def initial_state(settings: AdaptiveSettings, parameters: Arrays) -> State:
    """m = 0 and v = tau^2."""
    return filled(FIRST, 0.0, parameters) | filled(SECOND, settings.adaptivity**2, parameters)


def adaptive_step(
    settings: AdaptiveSettings, parameters: Arrays, aggregate: Aggregate, state: State, next_second: NextSecondMoment
) -> tuple[Parameters, State]:
    """One round of algorithm 2."""
    moved: Parameters = {}
    after: dict[str, NDArray[np.float64]] = {}
    for name, array in parameters.items():
        difference, trained = aggregate.difference[name].astype(np.float64), aggregate.trained[name]
        first, second = state[key(FIRST, name)], state[key(SECOND, name)]
        first = np.where(trained, settings.momentum * first + (1 - settings.momentum) * difference, first)
        second = np.where(trained, next_second(second, np.square(difference)), second)
        change = settings.learning_rate * first / (np.sqrt(second) + settings.adaptivity)
        moved[name] = step(array, change, trained)
        after |= {key(FIRST, name): first, key(SECOND, name): second}
    return moved, after
