"""Options of how updates become the next model: the rule of aggregation and the server optimizer."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import get_args

from server.aggregation.choice import DEFAULT_TRIM, AggregationConfig, RuleName
from server.server_optimizers.choice import OptimizerName, ServerOptimizerConfig


def add_combining_options(add: Callable[..., None]) -> None:
    """Add them by `add(flag, text, **settings)`; options that only some rules take have no default."""
    rules, optimizers = get_args(RuleName), get_args(OptimizerName)
    add("--aggregation", "how updates are combined", choices=rules, default=AggregationConfig.aggregation)
    add("--trim", f"fraction of values a trimmed mean leaves out at either end ({DEFAULT_TRIM})", type=float)
    add("--norm-bound", "L2 norm that updates are shrunk to", type=float)
    add(
        "--server-optimizer",
        "how the combined update moves the model",
        choices=optimizers,
        default=ServerOptimizerConfig.server_optimizer,
    )
    add("--server-learning-rate", "of the server optimizer (fedavg, fedavgm: 1; fedadam, fedyogi: 0.01)", type=float)
    add("--server-momentum", "beta (fedavgm) or beta1 (fedadam, fedyogi), below 1 (0.9)", type=float)
    add("--server-second-momentum", "beta2 (fedadam, fedyogi), below 1 (0.99)", type=float)
    add("--server-adaptivity", "tau (fedadam, fedyogi), above 0 (0.001)", type=float)


def chosen_aggregation(arguments: argparse.Namespace) -> AggregationConfig:
    """What the parsed options say; raises `InvalidValueError` on what does not go together."""
    return AggregationConfig(**{field.name: getattr(arguments, field.name) for field in fields(AggregationConfig)})


def chosen_optimizer(arguments: argparse.Namespace) -> ServerOptimizerConfig:
    """What the parsed options say; raises `InvalidValueError` on what does not go together."""
    return ServerOptimizerConfig(
        **{field.name: getattr(arguments, field.name) for field in fields(ServerOptimizerConfig)}
    )
