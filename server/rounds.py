"""Carry out the coordinator's commands: open, prolong, apply and close rounds, each step durable before the next.

Invariants: a round's plan is in the database before it is on the broker; a model version is on disk before its round is
closed in the database; only then is the round's segment of the spool deleted. Each step can be done again, so a process
killed between any two finds its way from what is on disk, and gets the same model. Where a step fails because the state
folder cannot be written (a full disk), it is tried again until it can: the round waits, and says so in the log.

The wall's clock is only looked at for deadlines in plans and for records; all waiting is by a clock that never jumps.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from typing import Any, TypeVar

import msgspec
from numpy.typing import NDArray

from server import coordinator
from server.aggregation.choice import aggregation_rule
from server.aggregation.fold import Scale, as_it_is
from server.allowance import Allowance
from server.bundle import Bundle
from server.clocks import Clocks
from server.compute_account import Compute
from server.config import RunConfig
from server.coordinator import Collecting, Event, Finished, Past
from server.downlink import Downlink
from server.errors import NobodyCanError, StorageError
from server.evaluation import Evaluation, Evaluator
from server.event_log import EventKind, closed_words
from server.known_selections import KnownSelections
from server.log_format import about
from server.metrics import Metrics
from server.model_files import ModelFiles
from server.model_offers import ModelOffers, Offer
from server.next_model import Combining, Model
from server.receipts import ReceiptBook
from server.records import CarriedRecord, OpeningRecord, RoundRecord
from server.registry import Registry
from server.reminder import Reminder
from server.resync import encode_slice
from server.round_plan import Opening, round_plan
from server.round_screening import RoundScreening
from server.round_trace import round_span, step_span
from server.round_work import RoundWork
from server.run_history import Standing
from server.run_schedule import schedule_of
from server.run_watch import RunWatch
from server.server_optimizers.choice import server_optimizer
from server.server_optimizers.optimizer import Parameters
from server.spool import Spool
from server.storage import Store
from server.traffic import Traffic
from server.uplink import Uplink
from wire_protocol.examples import Examples
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import SubModel

logger = logging.getLogger(__name__)

_RETRY_SECONDS = 1.0
_TRIES_A_LOG_LINE = 30
_WARNINGS_A_SECOND = 1 / 60

_T = TypeVar("_T")


@dataclass(frozen=True)
class Workplace:
    """What rounds need: where to read and write, whom to tell, what forgets all that is not of the open round.

    `held_out` evaluates a model, None for no evaluation.
    """

    config: RunConfig
    bundle: Bundle
    store: Store
    models: ModelFiles
    spool: Spool
    registry: Registry
    downlink: Downlink
    traffic: Traffic
    held_out: tuple[Evaluator, Examples] | None
    clocks: Clocks
    uplink: Uplink
    metrics: Metrics


class Rounds:
    """The rounds of one run. `on_round` is called in the event loop after every closed round."""

    def __init__(self, workplace: Workplace, standing: Standing, on_round: Callable[[RoundRecord], None]) -> None:
        self._at = workplace
        self._layout = workplace.bundle.layout
        self._on_round = on_round
        rule = aggregation_rule(workplace.config.aggregation, self._layout)
        optimizer = server_optimizer(workplace.config.server_optimizer)
        self._combining = Combining(self._layout, rule, optimizer, workplace.config.clipping)
        store, clocks = workplace.store, workplace.clocks
        self.watch = RunWatch(workplace.config, workplace.metrics, store.events, clocks.steady, standing.closed)
        self._screening = RoundScreening(workplace.config, self._layout, store, clocks.wall, self.watch)
        self._model = standing.model
        self._version = standing.version
        self.selections = KnownSelections(standing.selections)
        self._recent = {plan.round: plan for plan in standing.recent}
        self.work: RoundWork | None = None
        self._plan_reminder = Reminder()
        self._warnings = Allowance(_WARNINGS_A_SECOND, 1, workplace.clocks.steady)
        self._offers = ModelOffers(self._layout, workplace.models)
        self._traffic_closed = workplace.traffic.total
        self._slices_are_due = standing.open_round is not None
        held = workplace.store.quarantine.holds
        presumed = standing.online | (standing.open_round.expected if standing.open_round else frozenset())
        online = frozenset(device for device in presumed if workplace.registry.keys(device) and not held(device))
        self._last_resync = standing.last_resync
        resync_round = standing.last_resync.round if standing.last_resync else None
        open_round = self._reopen(standing.open_round)
        past = Past(standing.closed, resync_round, standing.since_resync, online, open_round)
        self._state = coordinator.begin(schedule_of(workplace.config), standing.next_round, past)

    @property
    def parameters(self) -> Parameters:
        """The model after the last closed round: full float32 arrays by name."""
        return self._model.parameters

    @property
    def online(self) -> frozenset[str]:
        """Devices that are online, as far as is known."""
        return self._state.online

    @property
    def finished(self) -> bool:
        """Whether all rounds are closed."""
        return isinstance(self._state.phase, Finished)

    def is_open(self, number: int) -> bool:
        """Whether updates of this round are counted now."""
        phase = self._state.phase
        return isinstance(phase, Collecting) and phase.round == number

    def judges(self, number: int) -> bool:
        """Whether updates of this round are to be sent: they are counted now or, in a buffered run, in the next one."""
        return self.is_open(number) or (self._at.config.buffer is not None and number in self._recent)

    def why_not(self, number: int) -> str:
        """Why updates of this round are refused."""
        buffer = self._at.config.buffer
        if buffer is not None and self.work is not None and number < self.work.oldest:
            return f"round {number} is over: late updates count up to {buffer.most_stale} model versions behind"
        return f"round {number} is not open"

    def observe(self, event: Event) -> tuple[coordinator.Command, ...]:
        """Tell the coordinator a fact."""
        self._state, commands = coordinator.step(self._state, event)
        return commands

    async def prepare(self) -> None:
        """Before the first connection: offer the models of rounds that go on, tidy up after rounds that are over.

        Raises `BundleError` where the open one's cannot be made again, and `StorageError`.
        """
        self._at.models.encoded.resume(self._recent[number].model for number in sorted(self._recent))
        if self.work is not None:
            plan, last_resync = self.work.plan, self._last_resync
            await asyncio.to_thread(self._offers.publish_again, plan, self.parameters, last_resync)
            self._at.uplink.forget_before(self.work.oldest)
        number = self.work.plan.round if self.work else None
        await asyncio.to_thread(self._at.spool.delete_others, number)

    async def decide(self) -> None:
        """Let the coordinator decide, and do what it says."""
        while commands := self.observe(coordinator.Tick(self._at.clocks.steady())):
            with about(run=self._at.config.run, round=self._state.next_round - 1):
                for command in commands:
                    await self._carry_out(command)
        if self._state.draws_too_few and self._warnings.take("draws"):
            config, online = self._at.config, len(self.online)
            logger.warning(
                "no round opens: none of many drew %d of the %d devices online (quorum %d, participation %g)",
                *(min(config.quorum, online), online, config.quorum, config.participation),
            )

    def publish_plan(self) -> None:
        """Publish the plan as it stands, or clear what another process left; for a fresh connection."""
        if self.work is None:
            self._at.downlink.withdraw_plan(self._at.config.run)
        else:
            self._say_plan(self.work.plan)

    def repeat_plan(self) -> None:
        """Publish the plan of the open round again, now and then: a device may have missed it."""
        if self.work is not None and self._plan_reminder.is_due(self._at.clocks.steady()):
            self._at.downlink.plan(self.work.plan, len(self.online))

    def _say_plan(self, plan: RoundPlan) -> None:
        self._at.downlink.plan(plan, len(self.online))
        self._plan_reminder.said(self._at.clocks.steady())

    async def send_due_slices(self) -> None:
        """After a restart, send the slices of the round that goes on again to those who have not answered."""
        if self._slices_are_due and self.work is not None:
            self._slices_are_due = False
            await self._send_slices(self.work, self.online)

    async def send_late_slices(self, devices: Iterable[str]) -> None:
        """Send the open round's slices to devices that begin it only now, as they were busy with an earlier one."""
        if self.work is not None and self.is_open(self.work.plan.round):
            await self._send_slices(self.work, self.online.intersection(devices))

    async def _carry_out(self, command: coordinator.Command) -> None:
        match command:
            case coordinator.OpenRound():
                await self._open(command)
            case coordinator.ExtendRound():
                await self._extend(command)
            case coordinator.CloseRound():
                await self._close()
            case coordinator.AbandonRound(number):
                logger.warning("round %d: given up, as no device drawn for it that is online has an update", number)
                self.watch.given_up()
                self._say("round-abandoned", number, "given up: nobody drawn for it who is online has an update")
                await self._write("giving up", self._at.store.abandon_round, self._at.config.run, number)
            case coordinator.GiveUp(number):
                await self._write("giving up", self._at.store.abandon_round, self._at.config.run, number)
                assert self.work is not None
                reason = self.work.book.last_refusal
                self.work = None
                raise NobodyCanError(f"round {number}: no device has an update; {reason}")
            case coordinator.Finish():
                self._at.uplink.clear()
                self._recent.clear()
                self.work = None

    async def _write(self, what: str, action: Callable[..., _T], *arguments: Any) -> _T:
        for tries in count():
            with suppress(StorageError):
                return await asyncio.to_thread(_noting, tries, what, action, *arguments)
            await asyncio.sleep(_RETRY_SECONDS)
        raise AssertionError

    def _reopen(self, opening: OpeningRecord | None) -> Collecting | None:
        if opening is None:
            return None
        plan, rows = opening.plan, self._at.store.updates
        counted, refused = rows.of_round(plan.run, plan.round), rows.refusals(plan.run, plan.round)
        earlier = self._turn_to(plan)
        book = ReceiptBook(plan.round, earlier, counted, refused, rows.conflicts(plan.run, plan.round))
        segment = self._at.spool.segment(plan.round, rows.end(plan.run, plan.round))
        age = max(0.0, self._at.clocks.wall() - opening.opened)
        self.work = RoundWork(plan, book, segment, self._at.clocks.steady() - age, earlier)
        return Collecting(
            plan.round,
            self._at.clocks.steady_at(plan.deadline),
            opening.expected,
            frozenset(record.device for record in counted if record.round == plan.round),
            frozenset(record.device for record in refused),
            frozenset((record.round, record.device) for record in counted if record.round < plan.round),
        )

    def _turn_to(self, plan: RoundPlan) -> dict[int, RoundPlan]:
        """The plan is the newest now; those of earlier rounds whose updates still count."""
        earlier = {
            number: one for number, one in self._recent.items() if number < plan.round and plan.takes_updates_of(one)
        }
        self._recent = {**earlier, plan.round: plan}
        return earlier

    async def _open(self, command: coordinator.OpenRound) -> None:
        resync = command.round == command.resync_round
        offer = await self._write(f"round {command.round}", self._publish_model, resync)
        assert isinstance(self._state.phase, Collecting)
        expected = self._state.phase.expected
        opening = OpeningRecord(self._plan(command, offer), expected, self._at.clocks.wall())
        plan = opening.plan
        await self._write(f"round {plan.round}", self._at.store.open_round, opening)
        if plan.resync:
            self._last_resync = plan
        earlier, listeners = self._turn_to(plan), self._listeners()
        book = ReceiptBook(plan.round, earlier) if self.work is None else self.work.book.following(plan.round, earlier)
        segment = self._at.spool.segment(plan.round, 0)
        self.work = RoundWork(plan, book, segment, self._at.clocks.steady(), earlier)
        self._at.uplink.forget_before(self.work.oldest)
        self._slices_are_due = False
        self._say_plan(plan)
        logger.debug("round %d is open for %d devices", plan.round, len(expected))
        self._say("round-opened", plan.round, f"open for {len(expected)} devices{', resync' if plan.resync else ''}")
        await self._send_slices(self.work, listeners)

    def _listeners(self) -> frozenset[str]:
        """Who begins a round when it opens: in a buffered run, only those who have nothing to do for the last one."""
        work = self.work
        if self._at.config.buffer is None or work is None:
            return self.online
        return frozenset(one for one in self.online if work.book.has_answered(one) or not work.plan.draws(one))

    def _publish_model(self, resync: bool) -> Offer:
        config, last_resync = self._at.config, self._last_resync
        if resync and last_resync is not None and config.difference != "off":
            return self._offers.publish_since(last_resync, self.parameters, config.downlink, config.difference)
        return self._offers.publish(self.parameters, config.downlink, None if resync else last_resync)

    async def _send_slices(self, work: RoundWork, devices: Iterable[str]) -> None:
        plan = work.plan
        for device in sorted(devices):
            keys, known = self._at.registry.keys(device), self.selections.of(device, plan)
            if not keys or known is None or work.book.has_answered(device) or not plan.draws(device):
                continue
            payload = await asyncio.to_thread(self._slice, device, keys, plan, known)
            self._at.downlink.slice_(device, plan, payload)

    def _slice(self, device: str, keys: Any, plan: RoundPlan, known: SubModel) -> bytes:
        message = encode_slice(self._layout, self.parameters, known, plan)
        return self._at.downlink.sealed_slice(device, keys, plan, message)

    def _plan(self, command: coordinator.OpenRound, offer: Offer) -> RoundPlan:
        opening = Opening(
            round=command.round,
            resync_round=command.resync_round,
            model_version=self._version,
            bundle=self._at.bundle.id,
            model=offer.model,
            deadline=self._at.clocks.wall_at(command.deadline),
            ranking=self._ranking_for(command),
            differences=offer.differences,
            clip_norm=self._model.clip_norm,
        )
        return round_plan(self._at.config, opening)

    def _ranking_for(self, command: coordinator.OpenRound) -> Mapping[str, bytes]:
        """In a buffered run also for devices that were busy in the resync round and choose after it."""
        if command.round == command.resync_round:
            return self._model.ranking
        last = self._recent.get(max(self._recent, default=0))
        if self._at.config.buffer is None or last is None or last.resync_round != command.resync_round:
            return {}
        return last.ranking

    async def _extend(self, command: coordinator.ExtendRound) -> None:
        assert self.work is not None
        work, online = self.work, len(self.online)
        work.plan = msgspec.structs.replace(work.plan, deadline=self._at.clocks.wall_at(command.deadline))
        logger.warning(
            "round %d: %d updates in time, %d needed, %d devices online; waiting on",
            *(command.round, work.book.accepted, self._at.config.quorum, online),
        )
        await self._write(f"round {command.round}", self._at.store.extend_round, work.plan)
        self._say_plan(work.plan)

    async def _close(self) -> None:
        assert self.work is not None
        with round_span(self.work.plan, self._at.clocks.wall_at(self.work.opened)):
            await self._close_work(self.work)

    async def _close_work(self, work: RoundWork) -> None:
        number = work.plan.round
        model, compute = await self._write(f"round {number}", self._apply, work)
        evaluation = await asyncio.to_thread(self._evaluate, model.parameters)
        traffic = self._at.traffic.total
        spent = traffic - self._traffic_closed
        record = work.record(compute, self._layout, evaluation, spent, self._at.clocks.steady())
        carried = CarriedRecord(model.ranking, model.clip_norm)
        await self._write(f"round {number}", self._at.store.close_round, work.plan.run, record, carried)
        self._traffic_closed = traffic
        self._model, self._version = model, record.model_version
        await self._write(f"round {number}", self._at.spool.delete_others, None)
        self.observe(coordinator.RoundApplied(number))
        self._say("round-closed", number, closed_words(record))
        self.watch.closed(record)
        self._on_round(record)

    def _say(self, kind: EventKind, number: int, text: str) -> None:
        self._at.store.events.add(kind, text, run=self._at.config.run, round=number)

    def _apply(self, work: RoundWork) -> tuple[Model, Compute]:
        rows = self._at.store.updates.of_round(work.plan.run, work.plan.round)
        with step_span("screen"):
            updates = self._screening.close(work.plan.round, rows, work.updates(rows, self._layout))
        with step_span("combine"):
            model, compute = self._combining.next_model(self._model, work.plan, updates, self._scale(work.plan))
        self._at.models.save_version(work.plan.model_version + 1, model.parameters, model.moments)
        return model, compute

    def _scale(self, plan: RoundPlan) -> Scale:
        buffer = self._at.config.buffer
        if buffer is None:
            return as_it_is
        return lambda update: buffer.discount(plan.model_version - update.model_version)

    def _evaluate(self, parameters: dict[str, NDArray[Any]]) -> Evaluation | None:
        if self._at.held_out is None:
            return None
        evaluator, examples = self._at.held_out
        with step_span("evaluate"):
            return evaluator.evaluate(parameters, examples)


def _noting(tries: int, what: str, action: Callable[..., _T], *arguments: Any) -> _T:
    try:
        return action(*arguments)
    except StorageError as error:
        if tries % _TRIES_A_LOG_LINE == 0:
            logger.error("%s waits until the state folder can be written: %s", what, error)
        raise
