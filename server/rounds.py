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

import msgspec

from server import coordinator
from server.allowance import Allowance
from server.coordinator import Collecting, Event, Finished, Past, Waiting
from server.errors import NobodyCanError
from server.event_log import EventKind, closed_words
from server.known_selections import KnownSelections
from server.log_format import about
from server.model_maker import ModelMaker
from server.model_offers import ModelOffers, Offer
from server.patience import until_written
from server.receipts import ReceiptBook
from server.records import CarriedRecord, OpeningRecord, RoundRecord
from server.reminder import Reminder
from server.round_plan import Opening, round_plan
from server.round_screening import RoundScreening
from server.round_trace import round_span
from server.round_work import RoundWork
from server.run_history import Standing
from server.run_schedule import schedule_of
from server.run_status import ACTIVE
from server.run_watch import RunWatch
from server.server_optimizers.optimizer import Parameters
from server.slice_post import SlicePost
from server.turns import Claim
from server.workplace import Workplace
from wire_protocol.messages import RoundPlan

logger = logging.getLogger(__name__)

_WARNINGS_A_SECOND = 1 / 60


class Rounds:
    """The rounds of one run. `on_round` is called in the event loop after every closed round."""

    def __init__(self, workplace: Workplace, standing: Standing, on_round: Callable[[RoundRecord], None]) -> None:
        self._at = workplace
        self._layout = workplace.bundle.layout
        self._on_round = on_round
        at, clocks = workplace, workplace.clocks
        self.watch = RunWatch(at.config, at.metrics, at.store.events, clocks.steady, standing.closed)
        screening = RoundScreening(at.config, self._layout, at.store, clocks.wall, self.watch)
        self._maker = ModelMaker(at.config, at.bundle, at.models, screening, at.held_out)
        self._model = standing.model
        self._version = standing.version
        self.selections = KnownSelections(standing.selections)
        self._recent = {plan.round: plan for plan in standing.recent}
        self.work: RoundWork | None = None
        self._plan_reminder = Reminder()
        self._warnings = Allowance(_WARNINGS_A_SECOND, 1, workplace.clocks.steady)
        self._offers = ModelOffers(self._layout, workplace.models)
        self._slices = SlicePost(self._layout, workplace.registry, workplace.downlink)
        self._traffic_closed = workplace.traffic.total
        self._slices_are_due = False
        self._roll_back_to = standing.orders.roll_back_to
        self.has_turn = False
        held = workplace.store.quarantine.holds
        presumed = standing.online | (standing.open_round.expected if standing.open_round else frozenset())
        online = frozenset(device for device in presumed if workplace.registry.keys(device) and not held(device))
        self._last_resync = standing.last_resync
        resync_round = standing.last_resync.round if standing.last_resync else None
        open_round = self._reopen(standing.open_round)
        past = Past(
            standing.closed,
            resync_round,
            standing.since_resync,
            online,
            open_round,
            paused=standing.paused,
            resync_due=standing.orders.resync_due,
        )
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
    def resting(self) -> bool:
        """Whether no round is open or being applied."""
        return isinstance(self._state.phase, Waiting)

    @property
    def paused(self) -> bool:
        """Whether the run opens no round until it is told to."""
        return self._state.paused

    @property
    def finished(self) -> bool:
        """Whether the run is over: all rounds are closed, or it was stopped."""
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

    async def take_step(self) -> bool:
        """Let the coordinator decide once, and do what it says; whether it said anything."""
        if self._roll_back_to is not None and self.resting:
            await self._roll_back(self._roll_back_to)
        commands = self.observe(coordinator.Tick(self._at.clocks.steady(), self.has_turn))
        with about(run=self._at.config.run, round=self._state.next_round - 1):
            for command in commands:
                await self._carry_out(command)
        if not commands and self.has_turn and self._state.may_open and self._warnings.take("draws"):
            config, online = self._at.config, len(self.online)
            logger.warning(
                "no round opens: none of many drew %d of the %d devices online (quorum %d, participation %g)",
                *(min(config.quorum, online), online, config.quorum, config.participation),
            )
        return bool(commands)

    def claim(self) -> Claim:
        """What the run would do with a turn."""
        phase = self._state.phase
        until = phase.deadline if isinstance(phase, Collecting) else None
        return Claim(self._at.config.run, self._state.may_open or until is not None, until)

    def take_turn(self, *, after_another: bool) -> None:
        """It is the run's turn: what is open goes on. Bytes of another run's turn before it are not this run's."""
        self.has_turn = True
        if after_another:
            self._traffic_closed = self._at.traffic.total
        phase = self._state.phase
        if isinstance(phase, Collecting):
            self._slices_are_due = True
            if self._at.clocks.steady() < phase.deadline:
                self.publish_plan()

    def lose_turn(self) -> None:
        """It is not the run's turn: devices are to leave its round, what is counted in it stays."""
        self.has_turn = False
        self.publish_plan()

    def publish_plan(self) -> None:
        """Publish the plan as it stands, or clear what another process left; for a fresh connection."""
        if self.work is None or not self.has_turn:
            self._at.downlink.withdraw_plan(self._at.config.run)
        else:
            self._say_plan(self.work.plan)

    def repeat_plan(self) -> None:
        """Publish the plan of the open round again, now and then: a device may have missed it."""
        if self.work is not None and self.has_turn and self._plan_reminder.is_due(self._at.clocks.steady()):
            self._at.downlink.plan(self.work.plan, len(self.online))

    def _say_plan(self, plan: RoundPlan) -> None:
        self._at.downlink.plan(plan, len(self.online))
        self._plan_reminder.said(self._at.clocks.steady())

    async def send_due_slices(self) -> None:
        """Send the slices of a round that goes on again to those who have not answered."""
        if self._slices_are_due and self.work is not None and self.has_turn:
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
                await until_written("giving up", self._at.store.abandon_round, self._at.config.run, number)
            case coordinator.DropRound(number):
                self._say("round-abandoned", number, "dropped, as the run was stopped")
                await until_written("stopping", self._at.store.abandon_round, self._at.config.run, number)
            case coordinator.GiveUp(number):
                await until_written("giving up", self._at.store.abandon_round, self._at.config.run, number)
                assert self.work is not None
                reason = self.work.book.last_refusal
                self.work = None
                raise NobodyCanError(f"round {number}: no device has an update; {reason}")
            case coordinator.Finish():
                await self._finish()

    async def _finish(self) -> None:
        if not self._state.stopping:
            await until_written("the end", self._at.store.orders.move, self._at.config.run, ACTIVE, "finished")
        self._at.uplink.clear()
        await until_written("the end", self._at.spool.delete_others, None)
        self._recent.clear()
        self.work = None

    def order_roll_back(self, version: int) -> None:
        """Let the next round start from an archived version."""
        self._roll_back_to = version

    async def _roll_back(self, version: int) -> None:
        run, fresh = self._at.config.run, self._version + 1
        model = await until_written("a roll back", self._maker.restored, self._model, fresh)
        await until_written("a roll back", self._at.store.orders.note_rolled_back, run, fresh)
        self._model, self._version, self._roll_back_to = model, fresh, None
        logger.info("run %s: version %d is what version %d was", run, fresh, version)

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
        offer = await until_written(f"round {command.round}", self._publish_model, resync)
        assert isinstance(self._state.phase, Collecting)
        expected = self._state.phase.expected
        opening = OpeningRecord(self._plan(command, offer), expected, self._at.clocks.wall())
        plan = opening.plan
        await until_written(f"round {plan.round}", self._at.store.open_round, opening)
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
        await self._slices.send(work, self.selections, self.parameters, devices)

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
        await until_written(f"round {command.round}", self._at.store.extend_round, work.plan)
        self._say_plan(work.plan)

    async def _close(self) -> None:
        assert self.work is not None
        with round_span(self.work.plan, self._at.clocks.wall_at(self.work.opened)):
            await self._close_work(self.work)

    async def _close_work(self, work: RoundWork) -> None:
        number = work.plan.round
        model, compute = await until_written(f"round {number}", self._maker.next_model, self._model, work)
        evaluation = await asyncio.to_thread(self._maker.evaluate, model.parameters)
        traffic = self._at.traffic.total
        spent = traffic - self._traffic_closed
        record = work.record(compute, self._layout, evaluation, spent, self._at.clocks.steady())
        path = self._at.models.version_path(record.model_version)
        await until_written(f"round {number}", self._at.store.archive.add, work.plan.run, record, path)
        carried = CarriedRecord(model.ranking, model.clip_norm)
        await until_written(f"round {number}", self._at.store.close_round, work.plan.run, record, carried)
        self._traffic_closed = traffic
        self._model, self._version = model, record.model_version
        await until_written(f"round {number}", self._at.spool.delete_others, None)
        self.observe(coordinator.RoundApplied(number))
        self._say("round-closed", number, closed_words(record))
        self.watch.closed(record)
        self._on_round(record)

    def _say(self, kind: EventKind, number: int, text: str) -> None:
        self._at.store.events.add(kind, text, run=self._at.config.run, round=number)
