"""The one protocol of all server optimizers: how the fleet's difference becomes the next model.

The difference stands in the place of a gradient, pointing the way to go (Reddi et al. 2021, "Adaptive Federated
Optimization", algorithm 1). An optimizer is two functions without memory; what it remembers between rounds is a value,
arrays by name, that is stored beside the model version it belongs to.

Coordinates that nobody trained in a round are left exactly as they are, parameter and momenta alike. Their difference
is unknown, and not 0: taken for 0, it would let old momentum move parameters that no device looked at, and shrink
second moments, so that the step would be all the longer when someone trains them again. (For sparse gradients this is
known as lazy Adam.) Neither way is better throughout: benchmarks/server_rules.py, one seed, 20 rounds, left alone
against taken for 0: FedAvgM at rate 0.5 and momentum 0.5 56 against 51 %, at 0.2 and 0.9 23 against 32 % (neither had
converged; FedAvg 57 %), FedAdam 27 against 25 %, FedYogi 25 against 24 % (both at rate 0.003).

Arithmetic is float64, so that the square of any difference that screening lets pass is finite; the model is rounded to
float32 once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from server.aggregation.rule import Aggregate
from wire_protocol.sub_model import Arrays

State = Mapping[str, NDArray[np.float64]]
"""Arrays named `{moment}/{parameter}`, each of its parameter's shape; never changed in place."""
Parameters = dict[str, NDArray[Any]]


class ServerOptimizer(Protocol):
    """A published server optimizer."""

    @property
    def moments(self) -> tuple[str, ...]:
        """Names of what is remembered of every parameter, e.g. `momentum`."""
        ...

    def init(self, parameters: Arrays) -> State:
        """The state before the first round."""
        ...

    def apply(self, parameters: Arrays, aggregate: Aggregate, state: State) -> tuple[Parameters, State]:
        """The next model, float32, and the next state; no argument is changed."""
        ...


def filled(moment: str, value: float, parameters: Arrays) -> dict[str, NDArray[np.float64]]:
    """A moment that is `value` everywhere."""
    return {key(moment, name): np.full(array.shape, value, dtype=np.float64) for name, array in parameters.items()}


def key(moment: str, parameter: str) -> str:
    """The name of a moment's array in the state."""
    return f"{moment}/{parameter}"


def step(parameter: NDArray[Any], change: NDArray[Any], trained: NDArray[np.bool_]) -> NDArray[np.float32]:
    """The parameter plus the change, rounded once; untouched where nobody trained."""
    return np.where(trained, np.add(parameter, change, dtype=np.float64), parameter).astype(np.float32)
