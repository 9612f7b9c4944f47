"""Server optimizers, and rules of aggregation under attack, on Fashion-MNIST shared unevenly by 20 devices.

    python -m benchmarks.server_rules --json server_rules.json

Every device keeps `--keep` of the neurons of a LeNet by Fisher score. The accuracy is the mean of the last five rounds.

Optimizers: each with the moments of coordinates that nobody trained left alone (`held`, what the server does) and with
their difference taken for 0 (`decayed`). Attacks: one device in five multiplies what it sends by a factor.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figures import benchmark_parser, publish
from benchmarks.in_memory_fleet import Fleet, Method, ServerSide, accuracies
from benchmarks.method_cases import LAST_ROUNDS, build
from benchmarks.selection import WIDTHS
from devices.emulation.datasets import Dataset, load_dataset
from devices.emulation.splits import dirichlet_split
from model_export.export import export_bundle
from server.aggregation.choice import AggregationConfig, aggregation_rule
from server.aggregation.contribution import Contribution, Contributions
from server.aggregation.rule import Aggregate, AggregationRule
from server.server_optimizers.choice import ServerOptimizerConfig, server_optimizer
from server.server_optimizers.optimizer import Parameters, ServerOptimizer, State
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays

DEVICES = 20
OPTIMIZERS = (
    ServerOptimizerConfig("fedavg"),
    ServerOptimizerConfig("fedavgm", server_learning_rate=0.5, server_momentum=0.5),
    ServerOptimizerConfig("fedavgm", server_learning_rate=0.2, server_momentum=0.9),
    ServerOptimizerConfig("fedadam", server_learning_rate=0.003),
    ServerOptimizerConfig("fedadam"),
    ServerOptimizerConfig("fedyogi"),
)
RULES = (
    AggregationConfig("mean"),
    AggregationConfig("mean", norm_bound=1.0),
    AggregationConfig("trimmed-mean", trim=0.2),
    AggregationConfig("median"),
)
FACTORS = (1.0, -1.0, 100.0)


@dataclass(frozen=True)
class Decayed:
    """An optimizer that takes what nobody trained for a difference of 0."""

    optimizer: ServerOptimizer

    @property
    def moments(self) -> tuple[str, ...]:
        """See `ServerOptimizer`."""
        return self.optimizer.moments

    def init(self, parameters: Arrays) -> State:
        """See `ServerOptimizer`."""
        return self.optimizer.init(parameters)

    def apply(self, parameters: Arrays, aggregate: Aggregate, state: State) -> tuple[Parameters, State]:
        """See `ServerOptimizer`."""
        everything = {name: np.ones_like(trained) for name, trained in aggregate.trained.items()}
        return self.optimizer.apply(parameters, replace(aggregate, trained=everything), state)


@dataclass(frozen=True)
class Attacked:
    """A rule on contributions of which every fifth is multiplied by `factor`."""

    rule: AggregationRule
    factor: float

    def aggregate(self, contributions: Contributions) -> Aggregate:
        """See `AggregationRule`."""
        return self.rule.aggregate([self._sent(number, one) for number, one in enumerate(contributions)])

    def _sent(self, number: int, one: Contribution) -> Contribution:
        if number % 5:
            return one
        return replace(one, values={name: values * np.float32(self.factor) for name, values in one.values.items()})


def attacked(config: AggregationConfig, factor: float) -> Callable[[Layout], AggregationRule]:
    """The rule of a layout, under attack."""
    return lambda layout: Attacked(aggregation_rule(config, layout), factor)


@dataclass(frozen=True)
class Trial:
    """What stays the same."""

    dataset: Dataset
    method: Method
    seed: int

    def accuracy(self, server: ServerSide) -> float:
        """Percent, the mean of the last rounds."""
        split = dirichlet_split(self.dataset.train.y, DEVICES, alpha=0.3, seed=self.seed)
        shares = [self.dataset.train.take(indices) for indices in split]
        module = build(self.dataset, 1.0, self.seed, WIDTHS)
        with TemporaryDirectory() as folder:
            manifest = export_bundle(module, self.dataset.input_shape, Path(folder), name="lenet")
            fleet = Fleet(Path(folder), manifest, shares, self.dataset.test, self.seed)
            rounds = list(accuracies(fleet, self.method, server))
        return 100 * mean(done.accuracy for done in rounds[-LAST_ROUNDS:])


def optimizers(trial: Trial) -> list[dict[str, str]]:
    """A row for each optimizer."""
    rows = []
    for config in OPTIMIZERS:
        optimizer = server_optimizer(config)
        held = trial.accuracy(ServerSide(optimizer=optimizer))
        decayed = f"{trial.accuracy(ServerSide(optimizer=Decayed(optimizer))):.1f}" if optimizer.moments else "-"
        name = f"{config.server_optimizer} {_given(config.server_learning_rate)} {_given(config.server_momentum)}"
        rows.append({"optimizer, rate, momentum": name, "held %": f"{held:.1f}", "decayed %": decayed})
    return rows


def rules(trial: Trial) -> list[dict[str, str]]:
    """A row for each rule, a column for each attack."""
    rows = []
    for config in RULES:
        row = {"rule": f"{config.aggregation}, norm bound {_given(config.norm_bound)}"}
        for factor in FACTORS:
            accuracy = trial.accuracy(ServerSide(rule=attacked(config, factor)))
            row[f"a fifth x {factor:g}, %"] = f"{accuracy:.1f}"
        rows.append(row)
    return rows


def _given(number: float | None) -> str:
    return "-" if number is None else f"{number:g}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Server optimizers, and rules of aggregation under attack.")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--keep", type=float, default=0.25)
    parser.add_argument("--learning-rate", type=float, default=0.1)
    parser.add_argument("--examples", type=int, default=6_000, help="training examples of the whole fleet")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    dataset = load_dataset("fashion-mnist", None, options.seed)
    drawn = np.random.default_rng(options.seed).choice(len(dataset.train), options.examples, replace=False)
    dataset = replace(dataset, train=dataset.train.take(np.sort(drawn)))
    method = Method(options.rounds, options.keep, local_steps=20, learning_rate=options.learning_rate)
    trial = Trial(dataset, method, options.seed)
    title = f"Fashion-MNIST, {DEVICES} devices, Dirichlet 0.3, keep {options.keep}, {options.rounds} rounds"
    tables = {"optimizers": optimizers(trial), "rules": rules(trial)}
    for name, rows in tables.items():
        publish(f"{title}: {name}", rows, {"settings": {**vars(options), "json": None}, **tables}, options.json)


if __name__ == "__main__":
    main()
