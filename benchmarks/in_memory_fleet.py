"""A federated run in one process without a network, on the cores that devices and server use: for comparing methods.

Deterministic by seed: devices are visited in order, so equal settings give equal figures. `fisherfleet simulate` does
the same on a virtual clock, with devices and links that differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
from safetensors.numpy import load_file

from devices.emulation.in_memory_device import Graphs, decode_model, decode_slice
from devices.emulation.in_memory_server import InMemoryServer
from edge_client.error_feedback import feeds_back, no_residual
from edge_client.local_update import Choice, LocalWork, choose, train_update
from server.aggregation.masked_mean import WeightedMean
from server.aggregation.rule import AggregationRule
from server.compute_account import Compute
from server.config import Outliers
from server.evaluation import Evaluation, Evaluator
from server.initial_model import initial_model
from server.rate_schedule import RateDecay, RateSchedule
from server.screening import Refused
from server.server_optimizers.fed_avg import FedAvg
from server.server_optimizers.optimizer import ServerOptimizer
from wire_protocol import messages
from wire_protocol.bundle_manifest import EVALUATE, WEIGHTS, BundleManifest
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.local_training import PLAIN, LocalTraining
from wire_protocol.messages import RoundPlan, SelectionPolicy, Update
from wire_protocol.model_difference import Coding, DifferencePrecision, encode_difference
from wire_protocol.neuron_scores import Scores
from wire_protocol.privacy import Privacy
from wire_protocol.sub_model import Arrays, SubModel, full_sub_model, gather, sub_shapes, widths_at
from wire_protocol.tensor_codec import Codec, DownlinkPrecision, Precision, decode

_NO_HASH = "0" * 64


@dataclass(frozen=True)
class Method:
    """How the fleet trains; see `wire_protocol.messages.RoundPlan`.

    `difference` is the precision of whole models at resyncs after the first, as differences from the one before; None
    sends them whole. With `true_positions` a private run's neurons are chosen by true Fisher scores, as no device would
    choose them: such a run is not private.
    """

    rounds: int
    keep: float
    selection: SelectionPolicy = "fisher"
    resync_every: int = 5
    local_steps: int = 10
    batch_size: int = 32
    learning_rate: float = 0.05
    rate_decay: RateDecay = "none"
    rate_warmup: int = 0
    initial_scale: float = 1.0
    training: LocalTraining = PLAIN
    precision: Precision = "float16"
    top_k: float = 1.0
    downlink: DownlinkPrecision = "float16"
    difference: DifferencePrecision | None = None
    error_feedback: bool = True
    score_examples: int = 0
    privacy: Privacy | None = None
    true_positions: bool = False

    def plan(self, number: int, ranking: Mapping[str, bytes]) -> RoundPlan:
        """The plan of round `number`, counted from 1; the fleet's ranking goes out at resyncs."""
        rates = RateSchedule(self.learning_rate, self.rounds, self.rate_decay, self.rate_warmup)
        resync_round = self.resync_round(number)
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
            learning_rate=rates.at(number),
            keep=self.keep,
            selection=self.selection,
            training=self.training,
            ranking=dict(ranking) if number == resync_round else {},
            precision=self.precision,
            top_k=self.top_k,
            downlink=self.downlink,
            score_examples=self.score_examples,
            privacy=self.privacy,
        )

    def resync_round(self, number: int) -> int:
        """The round whose choice of neurons holds in round `number`; see `server.coordinator`."""
        if self.selection != "fisher-cohort":
            return number - (number - 1) % self.resync_every
        return number if number < 2 else number - (number - 2) % self.resync_every


Sends = Callable[[int, Update, SubModel], Update]
"""From a device, and the update and neurons that it trained, to what it sends."""


def as_trained(_device: int, update: Update, _sub_model: SubModel) -> Update:
    """What an honest device sends."""
    return update


@dataclass(frozen=True)
class Fleet:
    """A bundle, each device's examples, the held-out test examples, and the seed of all chance on devices.

    `caps` has for each device the fraction of the neurons that it can afford, in (0, 1]; empty where all can afford
    what the plan says. `sends` is what a device makes of the update that it trained before it sends it.
    """

    bundle: Path
    manifest: BundleManifest
    shares: Sequence[Examples]
    test: Examples
    seed: int
    caps: Sequence[float] = ()
    sends: Sends = as_trained


@dataclass(frozen=True)
class Capped:
    """A `Fitting` of a device that can afford this fraction of every group, whatever its scores."""

    layout: Layout
    cap: float

    def everything_fits(self) -> bool:
        """Never: where it did, the plan alone would do."""
        return False

    def widths(self, scores: Scores | None) -> Mapping[str, int]:
        """The cap's share of every group."""
        del scores
        return widths_at(self.layout, self.cap)


@dataclass(frozen=True)
class ServerSide:
    """What the server makes of updates; the weighted mean of all and FedAvg unless told otherwise."""

    rule: Callable[[Layout], AggregationRule] = WeightedMean
    optimizer: ServerOptimizer = field(default_factory=FedAvg)
    outliers: Outliers = "keep"


OnValues = Callable[[int, Arrays], None]


def _ignore(number: int, values: Arrays) -> None:
    del number, values


@dataclass(frozen=True)
class Round:
    """Bytes of all updates, bytes of all slices and whole models, and the multiply-accumulates of a round; and the
    devices whose updates were left out of the model.
    """

    bytes_up: int
    bytes_down: int
    compute: Compute
    left_out: frozenset[int]
    evaluate: Callable[[], Evaluation]

    @cached_property
    def accuracy(self) -> float:
        """Held-out accuracy in [0, 1] after the round; measured when it is first asked for."""
        accuracy = self.evaluate().accuracy
        assert accuracy is not None
        return accuracy


def accuracies(
    fleet: Fleet, method: Method, server: ServerSide = ServerSide(), on_values: OnValues = _ignore
) -> Iterator[Round]:
    """Train and yield every round; `on_values` is told the round and the decoded arrays of every update."""
    layout = fleet.manifest.layout
    graphs = Graphs.open(fleet.bundle, layout)
    evaluator = Evaluator(fleet.bundle / EVALUATE, 1)
    initial = initial_model(layout, load_file(fleet.bundle / WEIGHTS), method.initial_scale)
    operator = InMemoryServer(layout, server.rule(layout), server.optimizer, initial, outliers=server.outliers)
    chance = [_chance(fleet.seed, number) for number in range(len(fleet.shares))]
    kept: dict[int, SubModel] = {}
    residuals: dict[int, Arrays] = {}
    resynced: Arrays | None = None
    for number in range(1, method.rounds + 1):
        plan, up, down = method.plan(number, operator.ranking), 0, 0
        opened = operator.open_round(plan)
        feeding = method.error_feedback and feeds_back(plan)
        whole = _resynced(method, layout, operator, plan, resynced) if plan.resync else None
        resynced = resynced if whole is None else whole.arrays
        for device, examples in enumerate(fleet.shares):
            residual = residuals.get(device, no_residual(layout)) if feeding else None
            work = LocalWork(plan, layout, examples, *chance[device], residual)
            if whole is None:
                choice = Choice(kept[device], known=True)
                base = _slice(operator, plan, choice.sub_model)
                arrays = base.arrays
            else:
                fitting = _fitting(fleet, method, device)
                choice, base = _choose(method, work, whole.arrays, graphs, fitting), whole
                arrays = gather(layout, choice.sub_model, whole.arrays)
            kept[device] = choice.sub_model
            local = train_update(work, choice, arrays, graphs.runtime_for(work))
            if local.residual is not None:
                residuals[device] = local.residual
            body = messages.encode(fleet.sends(device, local.update, choice.sub_model))
            heard = opened.hear(f"{device:06}", body, choice.sub_model)
            if isinstance(heard, Refused):
                raise AssertionError(heard.reason)
            on_values(number, heard.values)
            up, down = up + len(body), down + base.bytes_taken
        compute = operator.close_round(opened)
        yield Round(up, down, compute, operator.left_out, partial(evaluator.evaluate, operator.parameters, fleet.test))


def _chance(seed: int, device: int) -> tuple[np.random.Generator, np.random.Generator]:
    """What draws batches and what draws noise, which a real device lets nobody repeat."""
    return np.random.default_rng([seed, device]), np.random.default_rng([seed, device, 1])


def _choose(method: Method, work: LocalWork, full: Arrays, graphs: Graphs, fitting: Capped | None) -> Choice:
    if not method.true_positions:
        return choose(work, full, lambda: graphs.scorer, fitting)
    plan = msgspec.structs.replace(work.plan, privacy=None, selection="fisher")
    return replace(choose(replace(work, plan=plan), full, lambda: graphs.scorer, fitting), basis="public", scored=0)


def _fitting(fleet: Fleet, method: Method, device: int) -> Capped | None:
    capped = bool(fleet.caps) and fleet.caps[device] < method.keep
    return Capped(fleet.manifest.layout, fleet.caps[device]) if capped else None


class _Received(NamedTuple):
    arrays: Arrays
    bytes_taken: int


def _resynced(
    method: Method, layout: Layout, operator: InMemoryServer, plan: RoundPlan, before: Arrays | None
) -> _Received:
    """The whole model as every device receives it at a resync; `before` is that of the resync before."""
    if before is None or method.difference is None:
        payload = operator.whole_model(plan)
        return _Received(decode_model(layout, plan, payload), len(payload))
    shapes, codec = sub_shapes(layout, full_sub_model(layout).widths), Codec(method.downlink)
    coded = encode_difference(operator.parameters, before, Coding(shapes, codec, Codec(method.difference)))
    return _Received(decode(coded.whole, shapes, codec), len(coded.difference))


def _slice(operator: InMemoryServer, plan: RoundPlan, sub_model: SubModel) -> _Received:
    """What a device receives of the parameters in a slice, and the bytes it takes."""
    payload = operator.slice_(plan, sub_model)
    return _Received(decode_slice(operator.layout, sub_model, payload), len(payload))
