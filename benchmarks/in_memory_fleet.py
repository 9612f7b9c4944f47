"""A federated run in one process without a network, on the cores that devices and server use: for comparing methods.

Deterministic by seed: devices are visited in order, so equal settings give equal figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from edge_client.fisher import FisherScorer
from edge_client.local_update import Choice, LocalWork, choose, train_update
from edge_client.training.portable import PortableRuntime
from server.aggregation.contribution import Contribution
from server.aggregation.masked_mean import WeightedMean
from server.aggregation.rule import AggregationRule
from server.cohort import Cohort
from server.evaluation import Evaluator
from server.server_optimizers.fed_avg import FedAvg
from server.server_optimizers.optimizer import ServerOptimizer
from wire_protocol.bundle_manifest import EVALUATE, WEIGHTS, BundleManifest
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.local_training import PLAIN, LocalTraining
from wire_protocol.messages import RoundPlan, SelectionPolicy, Update
from wire_protocol.neuron_scores import decode_scores
from wire_protocol.sub_model import gather, sub_shapes
from wire_protocol.tensor_codec import decode

_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Method:
    """How the fleet trains; see `wire_protocol.messages.RoundPlan`."""

    rounds: int
    keep: float
    selection: SelectionPolicy = "fisher"
    resync_every: int = 5
    local_steps: int = 10
    batch_size: int = 32
    learning_rate: float = 0.05
    training: LocalTraining = PLAIN

    def plan(self, number: int, ranking: Mapping[str, bytes]) -> RoundPlan:
        """The plan of round `number`, counted from 1; the fleet's ranking goes out at resyncs."""
        resync_round = number - (number - 1) % self.resync_every
        return RoundPlan(
            run="benchmark",
            round=number,
            resync_round=resync_round,
            model_version=number - 1,
            bundle=_NO_HASH,
            model=_NO_HASH,
            deadline=0.0,
            local_steps=self.local_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            keep=self.keep,
            selection=self.selection,
            training=self.training,
            ranking=dict(ranking) if number == resync_round else {},
        )


@dataclass(frozen=True)
class Fleet:
    """A bundle, each device's examples, the held-out test examples, and the seed of all chance on devices."""

    bundle: Path
    manifest: BundleManifest
    shares: Sequence[Examples]
    test: Examples
    seed: int


@dataclass(frozen=True)
class ServerSide:
    """What the server makes of updates; the weighted mean and FedAvg unless told otherwise."""

    rule: Callable[[Layout], AggregationRule] = WeightedMean
    optimizer: ServerOptimizer = field(default_factory=FedAvg)


def accuracies(fleet: Fleet, method: Method, server: ServerSide = ServerSide()) -> Iterator[tuple[float, int]]:
    """Train and yield, after every round, the held-out accuracy in [0, 1] and the bytes of values all devices sent."""
    layout = fleet.manifest.layout
    runtime = PortableRuntime.open(fleet.bundle, layout, threads=1)
    scorer = FisherScorer.open(fleet.bundle, layout, threads=1)
    evaluator = Evaluator(fleet.bundle / EVALUATE, 1)
    parameters = load_file(fleet.bundle / WEIGHTS)
    rule, moments = server.rule(layout), server.optimizer.init(parameters)
    generators = [np.random.default_rng([fleet.seed, number]) for number in range(len(fleet.shares))]
    choices: dict[int, Choice] = {}
    ranking: dict[str, bytes] = {}
    for number in range(1, method.rounds + 1):
        plan, cohort, sent = method.plan(number, ranking), Cohort(layout), 0
        contributions: list[Contribution] = []
        for device, examples in enumerate(fleet.shares):
            work = LocalWork(plan, layout, examples, generators[device])
            if plan.resync:
                choices[device] = choose(work, parameters, lambda: scorer)
            sub_model = choices[device].sub_model
            update: Update = train_update(work, choices[device], gather(layout, sub_model, parameters), runtime)
            values = decode(update.values, sub_shapes(layout, sub_model.widths), update.precision)
            contributions.append(Contribution(sub_model, values, update.examples))
            if plan.resync and update.scores:
                cohort.add(decode_scores(layout, update.scores))
            sent += len(update.values)
        ranking = cohort.ranking() if plan.resync else ranking
        parameters, moments = server.optimizer.apply(parameters, rule.aggregate(contributions), moments)
        yield evaluator.evaluate(parameters, fleet.test).accuracy, sent
