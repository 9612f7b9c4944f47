"""Command-line options of every run on this machine, emulated or simulated."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from devices.emulation.datasets import DatasetName
from devices.emulation.report import REPORT_NAME, Report, encode_report
from devices.emulation.settings import FleetSettings
from model_export.zoo import ZOO
from server.aggregation.choice import AggregationConfig
from server.combining_options import add_combining_options, chosen_aggregation, chosen_optimizer
from server.config import RunConfig
from server.privacy_options import PRIVACY_OPTIONS, add_privacy_options, take_privacy
from server.rate_schedule import RateDecay
from server.server_optimizers.choice import ServerOptimizerConfig
from server.training_options import add_training_options, take_training
from wire_protocol.local_training import LocalTraining
from wire_protocol.messages import SelectionPolicy
from wire_protocol.tensor_codec import DownlinkPrecision, Precision

PRINT = "-"
"""Of `--json` without a file."""


@dataclass(frozen=True)
class OptionGroups:
    """The groups that a command may add its own options to; `default` has the settings' defaults by name."""

    fleet: Any
    data: Any
    training: Any
    output: Any
    default: Mapping[str, Any]

    def option(self, group: Any, name: str, explanation: str, **how: Any) -> None:
        """Add `--name` with the setting's default, which its help says."""
        how.setdefault("default", self.default[name])
        group.add_argument(f"--{name.replace('_', '-')}", help=f"{explanation} (default: %(default)s)", **how)


def add_run_options(parser: argparse.ArgumentParser, settings: type[FleetSettings]) -> OptionGroups:
    """Add the options that both commands have, with the defaults of `settings`."""
    default = {field.name: field.default for field in fields(settings) if field.default is not MISSING}
    fleet, data, training, output = map(parser.add_argument_group, ("fleet", "data and model", "training", "output"))
    groups = OptionGroups(fleet, data, training, output, default)
    _add_fleet(groups)
    _add_data(groups)
    _add_training(groups)
    _add_output(groups.output)
    return groups


def take_settings(options: dict[str, Any]) -> dict[str, Any]:
    """Parsed options as arguments of the settings, what goes together made one value; raises `InvalidValueError`."""
    training = take_training({name: options.pop(name) for name in LocalTraining.__struct_fields__})
    privacy = take_privacy(options)
    options = {name: value for name, value in options.items() if name not in PRIVACY_OPTIONS}
    parts = (*fields(AggregationConfig), *fields(ServerOptimizerConfig))
    combining = argparse.Namespace(**{part.name: options.pop(part.name) for part in parts})
    return {
        **options,
        "training": training,
        "privacy": privacy,
        "aggregation": chosen_aggregation(combining),
        "server_optimizer": chosen_optimizer(combining),
    }


def write_json(report: Report, target: str | None) -> str:
    """Write the report where `--json` says; returns what is to be printed."""
    if target == PRINT:
        return encode_report(report).decode()
    if target is not None:
        Path(target).write_bytes(encode_report(report))
    return ""


def _add_fleet(groups: OptionGroups) -> None:
    fleet, option = groups.fleet, groups.option
    option(fleet, "devices", "number of devices; a data set with a natural split sets it itself", type=int)
    option(fleet, "rounds", "rounds to train", type=int)
    option(
        fleet, "keep", "fraction of the neurons of each layer that a device keeps, above 0 and at most 1", type=float
    )
    option(fleet, "resync_every", "rounds between two whole models, at which neurons are chosen afresh", type=int)
    option(fleet, "selection", "how neurons are chosen", choices=get_args(SelectionPolicy))
    option(fleet, "participation", "rate at which devices are drawn for a round, above 0 and at most 1", type=float)
    option(fleet, "seed", "seed of the split, the initial weights and every device's chance", type=int)


def _add_data(groups: OptionGroups) -> None:
    data, option = groups.data, groups.option
    option(data, "dataset", "data to train on", choices=get_args(DatasetName))
    data.add_argument("--data", type=Path, help="folder of the IDX files, or the .npz file with x, y and maybe device")
    option(data, "alpha", "concentration of the Dirichlet split; small is less alike", type=float)
    option(data, "model", f"a zoo model ({', '.join(ZOO)}) or module:factory, called without arguments")


def _add_training(groups: OptionGroups) -> None:
    training, option = groups.training, groups.option
    option(training, "local_steps", "steps of SGD that a device takes in a round", type=int)
    option(training, "batch_size", "examples in a step", type=int)
    option(training, "learning_rate", "step size", type=float)
    option(training, "rate_decay", "how the step size falls over the rounds", choices=get_args(RateDecay))
    option(training, "rate_warmup", "rounds over which the step size rises first", type=int)
    option(training, "initial_scale", "factor of initial weights that read hidden neurons", type=float)
    option(training, "precision", "number format of updates", choices=get_args(Precision))
    option(training, "top_k", "fraction of an update's values that is sent, the largest; the rest waits", type=float)
    option(training, "downlink", "number format of models and slices", choices=get_args(DownlinkPrecision))
    option(training, "score_examples", "examples that a device scores neurons on, 0 for all", type=int)
    add_training_options(training, RunConfig.training)
    add_privacy_options(training, required=False)

    def add(flag: str, text: str, **how: Any) -> None:
        shown = " (default: %(default)s)" if how.get("default") is not None else ""
        training.add_argument(flag, help=text + shown, **how)

    add_combining_options(add)


def _add_output(output: Any) -> None:
    output.add_argument(
        "--out",
        type=_folder,
        default=Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}"),
        help="folder for the results; an earlier run's files there are replaced (default: runs/<date>-<time>)",
    )
    output.add_argument(
        "--json",
        nargs="?",
        const=PRINT,
        type=_writable,
        metavar="FILE",
        help=f"also write {REPORT_NAME} to FILE, or to standard output when no file is named",
    )


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must be the name of a folder, got nothing")
    return Path(text)


def _writable(text: str) -> str:
    """Find out before the training, not after it, that a file cannot be written."""
    if text != PRINT:
        try:
            Path(text).open("a").close()
        except OSError as error:
            raise argparse.ArgumentTypeError(
                f"must be a file that can be written, got {text!r} ({error.strerror})"
            ) from error
    return text
