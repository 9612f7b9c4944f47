"""Command-line options of how devices train, the same for every command that starts a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from wire_protocol.local_training import LocalTraining, Optimizer


def add_training_options(group: Any, default: LocalTraining) -> None:
    """Add `--optimizer --momentum --proximal --clip-gradient --hidden-gain` to a parser or a group of one."""

    def add(flag: str, text: str, **how: Any) -> None:
        group.add_argument(flag, help=f"{text} (default: %(default)s)", **how)

    add("--optimizer", "a device's", choices=get_args(Optimizer), default=default.optimizer)
    add("--momentum", "decay of the optimizers momentum and adam", type=float, default=default.momentum)
    add("--proximal", "FedProx's mu, 0 for none", type=float, default=default.proximal)
    add("--clip-gradient", "largest norm of a batch's gradient, 0 for any", type=float, default=default.clip_gradient)
    gain = "what parameters that read hidden neurons descend by, 1 for as all others"
    add("--hidden-gain", gain, type=float, default=default.hidden_gain)


def take_training(options: Mapping[str, Any]) -> LocalTraining:
    """What these options say, by their names as attributes; raises `InvalidValueError`."""
    return LocalTraining(**{name: options[name] for name in LocalTraining.__struct_fields__})
