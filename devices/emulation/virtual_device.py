"""One virtual device's round: real work in virtual time.

The device does what a real one does with the same functions: it fits by `edge_client.round_fitting`, chooses and trains
by `edge_client.local_update`. Only the time that passes is computed, from its machine and its link:

    fetched = began + latency + bytes to fetch / rate down
    ready   = fetched + scoring + training, by its calibration times the round's `work_factor`

What cannot be ready in time is not trained: its time is known, and nobody would count it. Pure, given a `Workbench`;
a device's chance follows from the seed, its number and the round, so it does not matter where and in what order the
devices of a round are computed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from devices.emulation.in_memory_device import Graphs, decode_model, decode_slice
from devices.emulation.virtual_machine import machine_of
from devices.profiles.profile import load_profiles
from edge_client.calibration import Calibration
from edge_client.errors import CannotAffordError, TrainingError
from edge_client.limits import Limits
from edge_client.link_account import LinkAccount
from edge_client.link_estimate import LinkEstimate
from edge_client.local_update import Choice, LocalWork, choose, train_update
from edge_client.machine_sensors import Sensors
from edge_client.round_cost import ANNOUNCEMENT_BYTES
from edge_client.round_fitting import Fitter, RoundFitting, Subject
from wire_protocol import messages
from wire_protocol.envelope import SEALED_OVERHEAD
from wire_protocol.errors import InvalidValueError
from wire_protocol.examples import Examples
from wire_protocol.messages import Decline, DeclineCause, RoundPlan
from wire_protocol.sub_model import Arrays, SubModel, gather


@dataclass(frozen=True)
class Order:
    """A round as all devices are told of it: its plan, the whole model's bytes (none where nobody fetches it), whether
    devices fit what they train to what they can afford, and the seed of their chance.
    """

    plan: RoundPlan
    model: bytes = field(repr=False)
    fitted: bool
    seed: int


@dataclass(frozen=True)
class Task:
    """One device's part in it, from the moment `began`, in seconds from the start, as all moments are.

    `examples` are those that it holds. It fetches `bundle_bytes` first; then `slice_`, an encoded `Slice` of
    `selection`, or the whole model where that is empty. Rates are in bytes a second. `link` is what it knows of its
    uplink. What would be ready after `until` is not done in earnest.
    """

    device: int
    profile: str
    began: float
    until: float
    examples: NDArray[np.int64] = field(repr=False)
    rate_down: float
    latency: float
    work_factor: float
    link: LinkEstimate
    bundle_bytes: int = 0
    selection: SubModel | None = None
    slice_: bytes = field(default=b"", repr=False)
    residual: Arrays | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Answer:
    """What came of a task: the moments `fetched` and `ready` (infinite where it did not get that far), the bytes it
    fetches, and the `body` of what it sends, an encoded `Update` of `sub_model` or a `Decline`; None where that could
    not be ready in time. `bytes_up` are those of the sealed body and its announcement, predicted where there is none.
    """

    device: int
    fetched: float
    ready: float
    bytes_down: int
    bytes_up: int = 0
    body: bytes | None = field(default=None, repr=False)
    sub_model: SubModel | None = field(default=None, repr=False)
    residual: Arrays | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Workbench:
    """What the devices of one process share: the graphs, all examples, and calibrations by kind of device."""

    graphs: Graphs
    examples: Examples
    calibrations: dict[tuple[str, int], Calibration] = field(default_factory=dict)

    def calibration(self, profile: str, batch: int) -> Calibration:
        """What a device of this kind has measured with batches of this size."""
        key = (profile, batch)
        if key not in self.calibrations:
            self.calibrations[key] = machine_of(load_profiles()[profile], batch).calibration(self.graphs.layout)
        return self.calibrations[key]

    def answer(self, order: Order, task: Task) -> Answer:
        """Carry out a task."""
        size = task.bundle_bytes + len(task.slice_ or order.model)
        clock = _Clock(task.began + task.latency + size / task.rate_down)
        fetched = Answer(task.device, clock.now, inf, size)
        if clock.now > task.until:
            return fetched
        device = _Device(self, order, task, clock)
        try:
            return device.trained(fetched)
        except CannotAffordError:
            return _declined(order.plan, fetched, clock, "cannot-afford")
        except (TrainingError, InvalidValueError):
            return _declined(order.plan, fetched, clock, "training")


@dataclass
class _Clock:
    now: float

    def seconds(self) -> float:
        return self.now


class _Device:
    """A device at work on one task."""

    def __init__(self, bench: Workbench, order: Order, task: Task, clock: _Clock) -> None:
        self._graphs, self._order, self._task, self._clock = bench.graphs, order, task, clock
        plan, layout = order.plan, bench.graphs.layout
        examples = bench.examples.take(task.examples)
        chance = (order.seed, task.device, plan.round)
        generator, noise = np.random.default_rng(chance), np.random.default_rng([*chance, 2])
        self._work = LocalWork(plan, layout, examples, generator, noise, task.residual)
        batch = min(plan.batch_size, len(examples))
        self._calibration = bench.calibration(task.profile, batch)
        runtime = bench.graphs.runtime_for(self._work)
        self._subject = Subject(plan, layout, examples, runtime, self._scorer, self._reads_scores())
        self._fitter = _fitter(task, clock)
        self._cost = self._fitter.cost(self._subject, self._calibration)

    def trained(self, fetched: Answer) -> Answer:
        """Choose and train; raises `CannotAffordError`, `TrainingError` or `InvalidValueError`."""
        task = self._task
        choice, base = self._begin()
        row = self._cost.model.sizes.row(choice.sub_model.widths)
        steps = self._order.plan.local_steps
        self._clock.now += task.work_factor * float(self._cost.model.round_seconds(row, steps)[0])
        answer = replace(fetched, ready=self._clock.now, sub_model=choice.sub_model)
        if self._clock.now > task.until:
            return replace(answer, bytes_up=round(float(self._cost.update_bytes(row)[0])))
        local = train_update(self._work, choice, base, self._graphs.runtime_for(self._work))
        body = messages.encode(local.update)
        return replace(answer, body=body, bytes_up=_sent_bytes(body), residual=local.residual)

    def _begin(self) -> tuple[Choice, Arrays]:
        task, plan, layout = self._task, self._order.plan, self._graphs.layout
        fitting = self._fitting() if self._order.fitted else None
        if task.selection is not None and fitting is not None:
            fitting.require(task.selection.widths)
        if task.selection is not None and task.slice_:
            return Choice(task.selection, known=True), decode_slice(layout, task.selection, task.slice_)
        full = decode_model(layout, plan, self._order.model)
        choice = choose(self._work, full, self._scorer, fitting) if task.selection is None else Choice(task.selection)
        return choice, gather(layout, choice.sub_model, full)

    def _fitting(self) -> RoundFitting:
        room = self._fitter.room(self._order.plan.deadline - self._clock.now)
        return RoundFitting(self._fitter, self._subject, self._cost, room)

    def _reads_scores(self) -> bool:
        plan = self._order.plan
        return self._task.selection is None and plan.selection == "fisher" and bool(self._graphs.layout.groups)

    def _scorer(self) -> _TimedScorer:
        each = self._calibration.scoring_seconds or 0.0
        scored = self._order.plan.scored_of(len(self._task.examples))
        return _TimedScorer(self._graphs, self._clock, self._task.work_factor * each * scored)


@dataclass(frozen=True)
class _TimedScorer:
    """Scores for real, in `seconds` of virtual time."""

    graphs: Graphs
    clock: _Clock
    seconds: float

    def scores(
        self, parameters: Arrays, batches: Iterable[Examples], clip_norm: float = inf
    ) -> dict[str, NDArray[Any]]:
        """See `edge_client.local_update.Scorer`."""
        self.clock.now += self.seconds
        return self.graphs.scorer.scores(parameters, batches, clip_norm)


def _fitter(task: Task, clock: _Clock) -> Fitter:
    """What decides for the device: its limit is the memory that its kind has for it."""
    account = LinkAccount(None, lambda: None)
    account.link = task.link
    limits = Limits(memory_mb=load_profiles()[task.profile].free_mb)
    return Fitter(limits, Path(), account, Sensors(local_time=lambda: None, seconds=clock.seconds))


def _declined(plan: RoundPlan, fetched: Answer, clock: _Clock, cause: DeclineCause) -> Answer:
    body = messages.encode(Decline(run=plan.run, round=plan.round, cause=cause))
    return replace(fetched, ready=clock.now, body=body, bytes_up=_sent_bytes(body))


def _sent_bytes(body: bytes) -> int:
    return len(body) + SEALED_OVERHEAD + ANNOUNCEMENT_BYTES
