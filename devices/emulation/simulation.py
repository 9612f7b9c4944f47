"""A run of the server's coordinator over a virtual fleet: rounds open, devices answer in their time, rounds close.

The clock is a number. Within a round events come in order of time, then of device: an answer reaches the server, or a
device goes away. After each the coordinator decides, as the server lets it. Devices that come during a round wait for
the next one; what is on its way when a round closes is lost, as a newer plan ends the round at hand.

Nothing here depends on how fast the machine is, nor on how many processes compute the devices.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import sha256
from heapq import heappop, heappush
from math import inf
from pathlib import Path

import msgspec
import numpy as np

from devices.emulation.engines import Engine
from devices.emulation.fleet_account import LATE, Course, Fate, Turn, lateness, turn_of
from devices.emulation.in_memory_server import InMemoryRound, InMemoryServer
from devices.emulation.shares import Shares
from devices.emulation.virtual_device import Answer, Order, Task
from devices.emulation.virtual_fleet import VirtualFleet
from devices.errors import SimulationError
from edge_client.error_feedback import feeds_back
from edge_client.link_estimate import LinkEstimate
from edge_client.residual_store import ResidualStore
from edge_client.round_events import Selection
from edge_client.selection.policies import may_score
from server import coordinator
from server.compute_account import Compute
from server.config import RunConfig
from server.coordinator import Collecting, Finished
from server.evaluation import Evaluation
from server.records import RoundRecord
from server.round_plan import Opening, round_plan
from server.run_schedule import schedule_of
from server.screening import Refused
from server.traffic import dense_bytes
from wire_protocol import messages
from wire_protocol.bundle_manifest import FISHER, TRAIN_STEP, BundleManifest
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import Arrays, SubModel, element_count

WORK_SPREAD, LINK_SPREAD = 0.1, 0.2
"""Standard deviations of the logarithms by which a round's work and rates differ from what is usual for a device."""
HANDSHAKES = 2
"""Times there and back that an update takes besides its bytes: manifest and need, the rest and the receipt."""
LOOK_AGAIN_SECONDS = 1.0
DEVICES_AT_ONCE = 256
"""Whose slices and residuals are in memory together."""
MOST_GIVEN_UP = 10
"""Rounds given up one after another before a run is hopeless."""
MOST_PROLONGED = 100
"""Times that one round is prolonged while devices are there before a run is hopeless."""
MOST_SEARCHES = 1000
"""Ticks in turn at which no number that was tried draws enough devices before a run is hopeless."""


@dataclass(frozen=True)
class Stage:
    """Where a run takes place. `evaluate` judges a model; `scratch` is a folder for what devices keep on disk."""

    config: RunConfig
    fleet: VirtualFleet
    shares: Shares
    manifest: BundleManifest
    bundle: str
    evaluate: Callable[[Arrays], Evaluation]
    scratch: Path
    seed: int
    fitted: bool = True


@dataclass(frozen=True)
class SimulatedRound:
    """A closed round: the server's record, the moments it opened and closed, who was online, and every turn since the
    round before was closed.
    """

    record: RoundRecord
    opened: float
    closed: float
    online: int
    turns: tuple[Turn, ...]


@dataclass
class _Open:
    """The round at hand."""

    hearing: InMemoryRound
    model: bytes
    opened: float
    online: int
    prolonged: int = 0
    courses: dict[int, Course] = field(default_factory=dict)
    turns: dict[int, Turn] = field(default_factory=dict)
    events: list[tuple[float, int, bool]] = field(default_factory=list)

    @property
    def deadline(self) -> float:
        return self.hearing.plan.deadline

    def prolong(self, deadline: float) -> None:
        """Devices fit what they do to the new deadline."""
        self.hearing.plan = msgspec.structs.replace(self.hearing.plan, deadline=deadline)


class Simulation:
    """One run; `server` holds the model as it is now, `kept` what each device kept in its last counted update."""

    def __init__(self, stage: Stage, server: InMemoryServer, engine: Engine) -> None:
        self.server = server
        self.now = 0.0
        self.selections: dict[int, Selection] = {}
        self._at = stage
        self._layout = stage.manifest.layout
        self._engine = engine
        self._numbers = {name: number for number, name in enumerate(stage.fleet.names)}
        self._links: dict[int, LinkEstimate] = {}
        self._has_bundle = np.zeros(len(stage.fleet), dtype=np.bool_)
        self._online = stage.fleet.online(0.0)
        online = frozenset(name for name, there in zip(stage.fleet.names, self._online, strict=True) if there)
        self._state = coordinator.begin(schedule_of(stage.config), 1, coordinator.Past(online=online))
        self._version = 0
        self._lost: list[Turn] = []

    def rounds(self) -> Iterator[SimulatedRound]:
        """Run; yields every round as it closes. Raises `SimulationError` where round after round comes to nothing, or
        one never closes.
        """
        given_up = searches = 0
        while not isinstance(self._state.phase, Finished):
            self._look_around()
            commands = self._tell(coordinator.Tick(self.now))
            opening = next((one for one in commands if isinstance(one, coordinator.OpenRound)), None)
            searches = searches + 1 if self._state.may_open else 0
            if searches == MOST_SEARCHES:
                raise SimulationError(
                    f"no round draws any device: participation {self._at.config.participation:g} is too low for "
                    f"{int(self._online.sum())} devices online"
                )
            if opening is None:
                self.now += LOOK_AGAIN_SECONDS
                continue
            closed = self._collect(self._open(opening))
            given_up = 0 if closed is not None else given_up + 1
            if closed is not None:
                yield closed
            elif given_up == MOST_GIVEN_UP:
                raise SimulationError(f"{given_up} rounds in turn came to nothing: no device drawn has an update")

    def _tell(self, event: coordinator.Event) -> tuple[coordinator.Command, ...]:
        self._state, commands = coordinator.step(self._state, event)
        return commands

    def _look_around(self) -> None:
        online = self._at.fleet.online(self.now)
        for number in np.flatnonzero(online != self._online).tolist():
            name = self._at.fleet.names[number]
            self._tell(coordinator.DeviceOnline(name) if online[number] else coordinator.DeviceOffline(name))
        self._online = online

    def _open(self, command: coordinator.OpenRound) -> _Open:
        opening = Opening(
            round=command.round,
            resync_round=command.resync_round,
            model_version=self._version,
            bundle=self._at.bundle,
            model="0" * 64,
            deadline=command.deadline,
            ranking=self.server.ranking if command.round == command.resync_round else {},
            clip_norm=self.server.clip_norm,
        )
        plan = round_plan(self._at.config, opening)
        model = self.server.whole_model(plan)
        plan = msgspec.structs.replace(plan, model=sha256(model).hexdigest())
        hearing = self.server.open_round(plan)
        opened = _Open(hearing, model, self.now, int(self._online.sum()))
        assert isinstance(self._state.phase, Collecting)
        self._ask(opened, sorted(self._numbers[name] for name in self._state.phase.expected))
        return opened

    def _ask(self, opened: _Open, devices: Sequence[int]) -> None:
        """Have these devices begin, or go on with, the round, some at a time."""
        for start in range(0, len(devices), DEVICES_AT_ONCE):
            self._ask_some(opened, devices[start : start + DEVICES_AT_ONCE])

    def _ask_some(self, opened: _Open, devices: Sequence[int]) -> None:
        plan = opened.hearing.plan
        tasks = [self._task(opened, device) for device in devices]
        model = b"" if all(task.slice_ for task in tasks) else opened.model
        order = Order(plan, model, self._at.fitted, self._at.seed)
        for task, answer in zip(tasks, self._engine.run(order, tasks), strict=True):
            rate = float(self._at.fleet.up[task.device]) * self._factors(task.device, plan)[1]
            sent = answer.ready + HANDSHAKES * task.latency + answer.bytes_up / rate
            course = Course(answer, task.began, rate, sent if answer.body is not None else inf)
            opened.courses[task.device] = course
            leaves = self._at.fleet.leaves(task.device, self.now)
            moment = min(course.heard, leaves)
            if moment < inf:
                heappush(opened.events, (moment, task.device, leaves < course.heard))

    def _task(self, opened: _Open, device: int) -> Task:
        plan, fleet = opened.hearing.plan, self._at.fleet
        before = opened.courses.get(device)
        selection = self.selections.get(device)
        kept = selection.sub_model if selection is not None and selection.serves(plan) else None
        work, rate = self._factors(device, plan)
        return Task(
            device=device,
            profile=fleet.profile(device).id,
            began=self.now if before is None else before.began,
            until=min(opened.deadline, fleet.leaves(device, self.now)),
            examples=self._at.shares.of(device),
            rate_down=float(fleet.down[device]) * rate,
            latency=float(fleet.latency[device]),
            work_factor=work,
            link=self._links.get(device, LinkEstimate()),
            bundle_bytes=0 if self._has_bundle[device] else self._bundle_bytes(plan),
            selection=kept,
            slice_=b"" if kept is None else self.server.slice_(plan, kept),
            residual=self._residuals(device).load(plan.run, self._layout) if feeds_back(plan) else None,
        )

    def _factors(self, device: int, plan: RoundPlan) -> tuple[float, float]:
        """By how much a device's work takes longer, and its link is faster, in this round than it usually is."""
        generator = np.random.default_rng([self._at.seed, device, plan.round, 1])
        work, rate = generator.normal(0.0, (WORK_SPREAD, LINK_SPREAD))
        return float(np.exp(work)), float(np.exp(rate))

    def _bundle_bytes(self, plan: RoundPlan) -> int:
        names = [TRAIN_STEP, FISHER] if may_score(plan, self._layout, narrowed=self._at.fitted) else [TRAIN_STEP]
        return sum(self._at.manifest.files[name].size for name in names)

    def _residuals(self, device: int) -> ResidualStore:
        return ResidualStore(self._at.scratch / self._at.fleet.names[device])

    def _collect(self, opened: _Open) -> SimulatedRound | None:
        """Until the coordinator closes the round, or gives it up: then None."""
        while True:
            if opened.events and opened.events[0][0] < opened.deadline:
                self.now, device, leaves = heappop(opened.events)
                self._happened(opened, device, leaves)
            else:
                self.now = opened.deadline
                self._look_around()
            for command in self._tell(coordinator.Tick(self.now)):
                match command:
                    case coordinator.CloseRound():
                        return self._close(opened)
                    case coordinator.AbandonRound():
                        self._lost += self._settle(opened)
                        return None
                    case coordinator.ExtendRound(_, deadline):
                        self._prolong(opened, deadline)

    def _prolong(self, opened: _Open, deadline: float) -> None:
        opened.prolong(deadline)
        opened.prolonged += bool(self._online.any())
        if opened.prolonged > MOST_PROLONGED:
            raise SimulationError(
                f"round {opened.hearing.plan.round} was prolonged {MOST_PROLONGED} times: devices go away before they "
                "are heard; try a longer period, a higher availability or less work"
            )
        self._ask(opened, self._unanswered(opened))

    def _unanswered(self, opened: _Open) -> list[int]:
        """Who is there, was drawn, was not heard yet, and has nothing on its way; who came back begins anew."""
        plan, names = opened.hearing.plan, self._at.fleet.names
        there = [device for device in np.flatnonzero(self._online).tolist() if plan.draws(names[device])]
        for device in there:
            if device in opened.turns and opened.turns[device].fate == "offline":
                self._lost.append(opened.turns.pop(device))
                del opened.courses[device]
        heard_later = {device for device, course in opened.courses.items() if course.heard < inf}
        return [device for device in there if device not in opened.turns and device not in heard_later]

    def _happened(self, opened: _Open, device: int, leaves: bool) -> None:
        name, course = self._at.fleet.names[device], opened.courses.get(device)
        if device in opened.turns or course is None:
            return
        if leaves:
            self._online[device] = False
            self._tell(coordinator.DeviceOffline(name))
            self._end(opened, device, "offline")
            return
        body, number = course.answer.body, opened.hearing.plan.round
        assert body is not None
        known = self.selections.get(device)
        verdict = opened.hearing.hear(name, body, None if known is None else known.sub_model)
        if isinstance(verdict, Refused):
            self._tell(coordinator.UpdateRefused(name, number))
            self._end(opened, device, "declined" if course.answer.sub_model is None else "refused")
        else:
            self._tell(coordinator.UpdateCounted(name, number))
            self._accept(opened.hearing.plan, device, course.answer, verdict.sub_model)
            self._end(opened, device, "heard")

    def _accept(self, plan: RoundPlan, device: int, answer: Answer, sub_model: SubModel) -> None:
        self.selections[device] = Selection(plan.run, plan.bundle, plan.resync_round, plan.round, sub_model)
        if answer.residual is not None:
            residuals = self._residuals(device)
            residuals.propose(plan.run, plan.round, answer.residual)
            residuals.settle(plan.run, plan.round, True, self._layout)

    def _end(self, opened: _Open, device: int, fate: Fate) -> None:
        """A device's part in the round is over: what it knows now, and its account."""
        course = opened.courses[device]
        if self.now >= course.answer.fetched:
            self._has_bundle[device] = True
        kept = course.answer.sub_model
        share = 0.0 if kept is None else self._share(kept)
        turn = turn_of(course, fate, self.now, share, self._at.fleet.profile(device))
        sending = self.now - course.answer.ready
        if turn.bytes_up and sending > 0 and fate != "offline":
            link = self._links.get(device, LinkEstimate())
            self._links[device] = link.with_receipt(turn.bytes_up, sending)
        opened.turns[device] = turn
        opened.courses[device] = replace(course, answer=replace(course.answer, body=None, residual=None))

    def _share(self, sub_model: SubModel) -> float:
        whole = element_count(self._layout, self._layout.group_sizes)
        return element_count(self._layout, sub_model.widths) / whole

    def _settle(self, opened: _Open) -> list[Turn]:
        """The turns of a round that is over."""
        for device, course in sorted(opened.courses.items()):
            if device not in opened.turns:
                self._end(opened, device, lateness(course, self.now))
        return [turn for _, turn in sorted(opened.turns.items())]

    def _close(self, opened: _Open) -> SimulatedRound:
        turns = (*self._lost, *self._settle(opened))
        self._lost = []
        compute = self.server.close_round(opened.hearing)
        evaluation = self._at.evaluate(self.server.parameters)
        self._tell(coordinator.RoundApplied(opened.hearing.plan.round))
        self._version += 1
        record = self._record(opened, turns, compute, evaluation)
        return SimulatedRound(record, opened.opened, self.now, opened.online, turns)

    def _record(self, opened: _Open, turns: Sequence[Turn], compute: Compute, evaluation: Evaluation) -> RoundRecord:
        plan, heard = opened.hearing.plan, len(opened.hearing)
        dense = dense_bytes(self._layout, heard)
        plans = len(messages.encode(plan)) * opened.online
        return RoundRecord(
            round=plan.round,
            resync=plan.resync,
            accuracy=evaluation.accuracy,
            loss=evaluation.loss,
            updates_accepted=heard,
            updates_rejected=sum(turn.fate in ("declined", "refused") for turn in turns),
            bytes_up=sum(turn.bytes_up for turn in turns),
            bytes_down=sum(turn.bytes_down for turn in turns) + plans,
            bytes_up_dense=dense.up,
            bytes_down_dense=dense.down,
            trained_macs=compute.trained,
            scored_macs=compute.scored,
            full_macs=compute.full,
            seconds=self.now - opened.opened,
            model_version=self._version,
        )


def late(turns: Sequence[Turn]) -> int:
    """Turns that were not over when their round closed."""
    return sum(turn.fate in LATE for turn in turns)
