"""Options of how updates become the next model: when, by which rule of aggregation, and by which server optimizer."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import fields
from typing import get_args

from server.aggregation.buffered import EXPONENT, MOST_STALE, BufferRule
from server.aggregation.choice import DEFAULT_TRIM, AggregationConfig, RuleName
from server.server_optimizers.choice import OptimizerName, ServerOptimizerConfig
from wire_protocol.errors import require

SYNCHRONOUS, BUFFERED = MODES = ("sync", "buffered")


def add_combining_options(add: Callable[..., None]) -> None:
    """Add them by `add(flag, text, **settings)`; options that only some rules take have no default."""
    rules, optimizers = get_args(RuleName), get_args(OptimizerName)
    add("--mode", "whether rounds wait for their devices, or take late updates too", choices=MODES, default=MODES[0])
    add("--buffer-goal", "updates that close a round (buffered, where it is needed)", type=int)
    add("--most-stale", f"model versions that a late update may be behind (buffered: {MOST_STALE})", type=int)
    add("--staleness-exponent", f"a late update counts 1/(1 + behind)^this (buffered: {EXPONENT:g})", type=float)
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


def chosen_buffer(arguments: argparse.Namespace) -> BufferRule | None:
    """What the parsed options say, None for synchronous rounds; raises `InvalidValueError`."""
    given = {
        name: getattr(arguments, name)
        for name in ("buffer_goal", "most_stale", "staleness_exponent")
        if getattr(arguments, name) is not None
    }
    if arguments.mode == SYNCHRONOUS:
        for name, value in given.items():
            require(False, name, value, f"left out, as mode is {SYNCHRONOUS}")
        return None
    require("buffer_goal" in given, "buffer_goal", None, f"an integer of at least 1, as mode is {arguments.mode}")
    return BufferRule(
        goal=given["buffer_goal"],
        most_stale=given.get("most_stale", MOST_STALE),
        exponent=given.get("staleness_exponent", EXPONENT),
    )


def chosen_aggregation(arguments: argparse.Namespace) -> AggregationConfig:
    """What the parsed options say; raises `InvalidValueError` on what does not go together."""
    return AggregationConfig(**{field.name: getattr(arguments, field.name) for field in fields(AggregationConfig)})


def chosen_optimizer(arguments: argparse.Namespace) -> ServerOptimizerConfig:
    """What the parsed options say; raises `InvalidValueError` on what does not go together."""
    return ServerOptimizerConfig(
        **{field.name: getattr(arguments, field.name) for field in fields(ServerOptimizerConfig)}
    )
