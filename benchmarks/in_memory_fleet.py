"""A federated run in one process without a network, on the cores that devices and server use: for comparing methods.

Deterministic by seed: devices are visited in order, so equal settings give equal figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file

from edge_client.error_feedback import feeds_back, no_residual
from edge_client.fisher import FisherScorer
from edge_client.local_update import Choice, LocalWork, choose, train_update
from edge_client.training.portable import PortableRuntime
from server.aggregation.contribution import Contribution
from server.aggregation.masked_mean import WeightedMean
from server.aggregation.rule import AggregationRule
from server.cohort import Cohort
from server.evaluation import Evaluator
from server.resync import encode_model
from server.server_optimizers.fed_avg import FedAvg
from server.server_optimizers.optimizer import ServerOptimizer
from wire_protocol import messages
from wire_protocol.bundle_manifest import EVALUATE, WEIGHTS, BundleManifest
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.local_training import PLAIN, LocalTraining
from wire_protocol.messages import RoundPlan, SelectionPolicy
from wire_protocol.model_difference import Coding, DifferencePrecision, encode_difference
from wire_protocol.neuron_scores import decode_scores
from wire_protocol.sub_model import Arrays, SubModel, full_sub_model, gather, sub_shapes
from wire_protocol.tensor_codec import Codec, DownlinkPrecision, Precision, decode, encode

_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Method:
    """How the fleet trains; see `wire_protocol.messages.RoundPlan`.

    `difference` is the precision of whole models at resyncs after the first, as differences from the one before; None
    sends them whole.
    """

    rounds: int
    keep: float
    selection: SelectionPolicy = "fisher"
    resync_every: int = 5
    local_steps: int = 10
    batch_size: int = 32
    learning_rate: float = 0.05
    training: LocalTraining = PLAIN
    precision: Precision = "float16"
    top_k: float = 1.0
    downlink: DownlinkPrecision = "float16"
    difference: DifferencePrecision | None = None
    error_feedback: bool = True

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
            precision=self.precision,
            top_k=self.top_k,
            downlink=self.downlink,
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


OnValues = Callable[[int, Arrays], None]


def _ignore(number: int, values: Arrays) -> None:
    del number, values


class Round(NamedTuple):
    """Held-out accuracy in [0, 1] after a round, bytes of all updates, bytes of all slices and whole models."""

    accuracy: float
    bytes_up: int
    bytes_down: int


def accuracies(
    fleet: Fleet, method: Method, server: ServerSide = ServerSide(), on_values: OnValues = _ignore
) -> Iterator[Round]:
    """Train and yield every round; `on_values` is told the round and the decoded arrays of every update."""
    layout = fleet.manifest.layout
    runtime = PortableRuntime.open(fleet.bundle, layout, threads=1)
    scorer = FisherScorer.open(fleet.bundle, layout, threads=1)
    evaluator = Evaluator(fleet.bundle / EVALUATE, 1)
    parameters = load_file(fleet.bundle / WEIGHTS)
    rule, moments = server.rule(layout), server.optimizer.init(parameters)
    generators = [np.random.default_rng([fleet.seed, number]) for number in range(len(fleet.shares))]
    choices: dict[int, Choice] = {}
    residuals: dict[int, Arrays] = {}
    ranking: dict[str, bytes] = {}
    resynced: Arrays | None = None
    for number in range(1, method.rounds + 1):
        plan, cohort, up, down = method.plan(number, ranking), Cohort(layout), 0, 0
        contributions: list[Contribution] = []
        feeding = method.error_feedback and feeds_back(plan)
        whole = _resynced(method, layout, parameters, resynced) if plan.resync else None
        resynced = resynced if whole is None else whole.arrays
        for device, examples in enumerate(fleet.shares):
            residual = residuals.get(device, no_residual(layout)) if feeding else None
            work = LocalWork(plan, layout, examples, generators[device], residual=residual)
            if whole is not None:
                choices[device] = choose(work, whole.arrays, lambda: scorer)
            choice = choices[device]
            base = _received(plan, choice.sub_model, layout, parameters) if whole is None else whole
            arrays = base.arrays if whole is None else gather(layout, choice.sub_model, base.arrays)
            update, left = train_update(work, replace(choice, known=whole is None), arrays, runtime)
            if left is not None:
                residuals[device] = left
            values = decode(update.values, sub_shapes(layout, choice.sub_model.widths), update.codec)
            on_values(number, values)
            contributions.append(Contribution(choice.sub_model, values, update.examples))
            if plan.resync and update.scores:
                cohort.add(decode_scores(layout, update.scores))
            up, down = up + len(messages.encode(update)), down + base.bytes_taken
        ranking = cohort.ranking() if plan.resync else ranking
        parameters, moments = server.optimizer.apply(parameters, rule.aggregate(contributions), moments)
        yield Round(evaluator.evaluate(parameters, fleet.test).accuracy, up, down)


class _Received(NamedTuple):
    arrays: Arrays
    bytes_taken: int


def _resynced(method: Method, layout: Layout, parameters: Arrays, before: Arrays | None) -> _Received:
    """The whole model as every device receives it at a resync; `before` is that of the resync before."""
    shapes, codec = sub_shapes(layout, full_sub_model(layout).widths), Codec(method.downlink)
    if before is None or method.difference is None:
        payload = encode_model(layout, parameters, method.downlink)
        return _Received(decode(payload, shapes, codec), len(payload))
    coded = encode_difference(parameters, before, Coding(shapes, codec, Codec(method.difference)))
    return _Received(decode(coded.whole, shapes, codec), len(coded.difference))


def _received(plan: RoundPlan, sub_model: SubModel, layout: Layout, parameters: Arrays) -> _Received:
    """What a device receives of the parameters in a slice, and the bytes it takes."""
    shapes = sub_shapes(layout, sub_model.widths)
    payload = encode(gather(layout, sub_model, parameters), shapes, plan.downlink_codec)
    return _Received(decode(payload, shapes, plan.downlink_codec), len(payload))
