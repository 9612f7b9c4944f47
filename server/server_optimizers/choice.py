"""The server optimizer of a run, chosen by name."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Literal, get_args

from server.server_optimizers.adaptive import AdaptiveSettings
from server.server_optimizers.fed_adam import FedAdam
from server.server_optimizers.fed_avg import FedAvg
from server.server_optimizers.fed_avg_m import FedAvgM
from server.server_optimizers.fed_yogi import FedYogi
from server.server_optimizers.optimizer import ServerOptimizer
from wire_protocol.errors import require

OptimizerName = Literal["fedavg", "fedavgm", "fedadam", "fedyogi"]

_ADAPTIVE = ("fedadam", "fedyogi")
_TAKEN_BY = {
    "server_momentum": ("fedavgm", *_ADAPTIVE),
    "server_second_momentum": _ADAPTIVE,
    "server_adaptivity": _ADAPTIVE,
}


@dataclass(frozen=True)
class ServerOptimizerConfig:
    """`server_optimizer` names it. The rest is None for the optimizer's default, or where it takes no such thing.

    `server_learning_rate` (above 0): 1 for fedavg and fedavgm, 0.01 for fedadam and fedyogi. `server_momentum` (at
    least 0 and below 1): 0.9. `server_second_momentum` (the same): 0.99. `server_adaptivity` (tau, above 0): 0.001.
    """

    server_optimizer: OptimizerName = "fedavg"
    server_learning_rate: float | None = None
    server_momentum: float | None = None
    server_second_momentum: float | None = None
    server_adaptivity: float | None = None

    def __post_init__(self) -> None:
        names, name = get_args(OptimizerName), self.server_optimizer
        require(name in names, "server_optimizer", name, f"one of {', '.join(names)}")
        for field, takers in _TAKEN_BY.items():
            number = getattr(self, field)
            reason = f"left out, as server_optimizer is {name} and not {' or '.join(takers)}"
            require(number is None or name in takers, field, number, reason)
        for field in ("server_learning_rate", "server_adaptivity"):
            number = getattr(self, field)
            require(number is None or (number > 0 and isfinite(number)), field, number, "above 0 and finite")
        for field in ("server_momentum", "server_second_momentum"):
            number = getattr(self, field)
            require(number is None or 0 <= number < 1, field, number, "at least 0 and below 1")


def server_optimizer(config: ServerOptimizerConfig) -> ServerOptimizer:
    """The optimizer that `config` asks for."""
    rates = {"learning_rate": config.server_learning_rate, "momentum": config.server_momentum}
    given = {name: number for name, number in rates.items() if number is not None}
    match config.server_optimizer:
        case "fedavg":
            return FedAvg(**given)
        case "fedavgm":
            return FedAvgM(**given)
        case "fedadam":
            return FedAdam(_adaptive(config, given))
        case "fedyogi":
            return FedYogi(_adaptive(config, given))


def _adaptive(config: ServerOptimizerConfig, given: dict[str, float]) -> AdaptiveSettings:
    more = {"second_momentum": config.server_second_momentum, "adaptivity": config.server_adaptivity}
    return AdaptiveSettings(**given, **{name: number for name, number in more.items() if number is not None})
