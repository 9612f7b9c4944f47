"""Ways to choose neurons against a dense model of the same budget, on Fashion-MNIST over several seeds.

    python -m benchmarks.selection --json selection.json

The policies keep the given fraction of the neurons of a LeNet; `narrow` is a dense LeNet with that fraction of the
neurons, the control; `full` trains the whole model. All train the same number of rounds on the same non-IID split, each
at every learning rate given, as methods differ in the rate that suits them. The accuracy is the mean over the last five
rounds, as single rounds of non-IID training are noisy. A run that diverges stands as 10 %, what guessing gives.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from statistics import mean, stdev
from tempfile import TemporaryDirectory
from typing import Any, cast, get_args

from torch import nn

from benchmarks.figures import benchmark_parser, publish
from benchmarks.in_memory_fleet import Fleet, Method, ServerSide, accuracies
from benchmarks.method_cases import LAST_ROUNDS, build, sample
from devices.emulation.datasets import Dataset, load_dataset
from devices.emulation.splits import dirichlet_split
from edge_client.errors import TrainingError
from model_export.export import export_bundle
from server.config import RunConfig
from server.server_optimizers.fed_avg_m import FedAvgM
from server.training_options import add_training_options, take_training
from wire_protocol.errors import InvalidValueError
from wire_protocol.messages import SelectionPolicy

WIDTHS = (16, 32, 128, 64)


@dataclass(frozen=True)
class Trial:
    """A fleet and how it trains."""

    method: Method
    server: ServerSide
    devices: int
    seed: int


def run(dataset: Dataset, module: nn.Module, trial: Trial) -> dict[str, float]:
    """Mean accuracy of the last rounds, and value bytes sent a device and round."""
    split = dirichlet_split(dataset.train.y, trial.devices, alpha=0.3, seed=trial.seed)
    shares = [dataset.train.take(indices) for indices in split]
    with TemporaryDirectory() as folder:
        manifest = export_bundle(module, dataset.input_shape, Path(folder), name="lenet")
        fleet = Fleet(Path(folder), manifest, shares, dataset.test, trial.seed)
        try:
            rounds = list(accuracies(fleet, trial.method, trial.server))
        except (TrainingError, InvalidValueError):
            return {"accuracy": 1 / dataset.classes, "bytes_per_update": 0.0}
    return {
        "accuracy": mean(done.accuracy for done in rounds[-LAST_ROUNDS:]),
        "bytes_per_update": mean(done.bytes_up for done in rounds) / trial.devices,
    }


def main() -> None:
    """Run the benchmark."""
    options = _options()
    base = Method(
        rounds=options.rounds,
        keep=options.keep,
        local_steps=options.local_steps,
        resync_every=options.resync_every,
        training=take_training(vars(options)),
    )
    results: list[dict[str, Any]] = []
    for seed in options.seeds:
        dataset = load_dataset("fashion-mnist", None, seed)
        dataset = replace(dataset, train=dataset.train.take(sample(len(dataset.train), options.examples, seed)))
        for name, rate in product(options.methods, options.learning_rates):
            fraction, method = _method(name, replace(base, learning_rate=rate))
            trial = Trial(method, _server(options.server_momentum), options.devices, seed)
            outcome = run(dataset, build(dataset, fraction, seed, WIDTHS), trial)
            results.append({"method": name, "learning_rate": rate, "seed": seed, **outcome})
            sys.stderr.write(f"{results[-1]}\n")
    publish(
        f"Fashion-MNIST, {options.devices} devices, Dirichlet 0.3, keep {options.keep}, {options.rounds} rounds",
        [_row(name, rate, results) for name, rate in product(options.methods, options.learning_rates)],
        {"settings": {**vars(options), "json": None}, "results": results},
        options.json,
    )


def _options() -> argparse.Namespace:
    parser = benchmark_parser("Ways to choose neurons, a dense model of the same budget, and full models.")
    methods = ["fisher", "random", "magnitude", "prefix", "rolling", "narrow", "full"]
    parser.add_argument("--methods", nargs="+", default=methods, choices=[*get_args(SelectionPolicy), "narrow"])
    parser.add_argument("--learning-rates", nargs="+", type=float, default=[0.2])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=60)
    parser.add_argument("--devices", type=int, default=20)
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--local-steps", type=int, default=20)
    parser.add_argument("--resync-every", type=int, default=5)
    parser.add_argument("--server-momentum", type=float, default=0.0)
    parser.add_argument("--examples", type=int, default=12_000, help="training examples of the whole fleet")
    add_training_options(parser, RunConfig().training)
    return parser.parse_args()


def _server(momentum: float) -> ServerSide:
    """FedAvgM with steps shrunk by 1 - momentum, as they add up; plain FedAvg without."""
    return ServerSide(optimizer=FedAvgM(1 - momentum, momentum)) if momentum else ServerSide()


def _method(name: str, base: Method) -> tuple[float, Method]:
    """Which fraction of the neurons the model itself has, and how it is trained."""
    if name == "narrow":
        return base.keep, replace(base, keep=1.0)
    if name == "full":
        return 1.0, replace(base, keep=1.0)
    return 1.0, replace(base, selection=cast(SelectionPolicy, name))


def _row(name: str, rate: float, results: list[dict[str, Any]]) -> dict[str, str]:
    runs = [result for result in results if (result["method"], result["learning_rate"]) == (name, rate)]
    percent = [100 * run["accuracy"] for run in runs]
    spread = f" ± {stdev(percent):.1f}" if len(percent) > 1 else ""
    return {
        "method": name,
        "rate": f"{rate:g}",
        "accuracy %": f"{mean(percent):.1f}{spread}",
        "by seed": ", ".join(f"{value:.1f}" for value in percent),
        "bytes an update": f"{mean(run['bytes_per_update'] for run in runs):,.0f}",
    }


if __name__ == "__main__":
    main()
