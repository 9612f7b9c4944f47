"""Carries out what the state machine of a device's round asks for: fetches, trains, seals, and stores what came of it.

Training and downloads run in an executor, one after another; the disk has its own threads. Nothing that a plan, a
download, a training or a disk can do ends the device.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from functools import partial
from threading import Event as Flag
from typing import Any, Protocol

from edge_client import round_events as ev
from edge_client.credentials import Credentials
from edge_client.device_store import DeviceStore, Stored
from edge_client.device_work import DeviceWork, Trained
from edge_client.downlink import Downlink
from edge_client.errors import (
    BudgetSpentError,
    BundleError,
    CannotAffordError,
    LedgerDiskError,
    LedgerError,
    NotPrivateError,
    OutboxError,
    PausedError,
    SliceError,
    StoppedError,
)
from edge_client.log_limit import FAILURES_AN_HOUR, SECONDS_AN_HOUR, LogLimit
from edge_client.machine_host import Machine, MachineHost, Make
from edge_client.machine_watch import MachineWatch
from edge_client.outbox import Parcel
from edge_client.progress import Progress
from edge_client.round_phases import (
    AwaitingSlice,
    Busy,
    Delivering,
    FetchDelayed,
    Fetching,
    Idle,
    Phase,
    StoreDelayed,
    Storing,
    Training,
    due,
)
from edge_client.round_state import advance
from edge_client.training.step_pacer import StepPacer
from wire_protocol.errors import FisherfleetError
from wire_protocol.examples import ExamplesError
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.messages import Decline, DeclineCause, Receipt, RoundPlan, Slice, encode

logger = logging.getLogger(__name__)

_DOING: dict[type[Phase], str] = {
    Idle: "waits for a plan",
    AwaitingSlice: "waits for the values of its neurons",
    Fetching: "fetches the model",
    FetchDelayed: "waits to fetch the model again",
    Training: "trains",
    Storing: "keeps its update",
    StoreDelayed: "waits for room to keep its update",
    Delivering: "waits for its receipt",
}


@dataclass(frozen=True)
class Tools:
    """What a device works with; `executor` None means the event loop's own."""

    credentials: Credentials
    work: DeviceWork
    store: DeviceStore
    downlink: Downlink
    watch: MachineWatch
    progress: Progress
    executor: Executor | None


class Watcher(Protocol):
    """Who wants to know how rounds go."""

    def round_changed(self, busy: bool) -> None:
        """Whether what a kill would throw away is under way now."""
        ...

    def round_counted(self) -> None:
        """The server counted an update."""
        ...

    def fault_seen(self) -> None:
        """A round failed in a way that nobody foresaw."""
        ...


class RoundRunner:
    """The round of one device; `stored` is told of every payload that reaches the outbox."""

    def __init__(self, tools: Tools, stored: Callable[[Stored], None], watcher: Watcher) -> None:
        self._name = tools.credentials.device
        self._tools = tools
        self._stored = stored
        self._watcher = watcher
        self._faulty = False
        machine: Machine[Phase, ev.Command] = Machine(self._advance, due, self._carry_out)
        self._host = MachineHost(machine, Idle(tools.store.memory))
        self._stop_job = Flag()
        self._job_lock = asyncio.Lock()
        self._limit = LogLimit(logger, logging.INFO)
        self._failures = LogLimit(logger, logging.WARNING, burst=FAILURES_AN_HOUR, seconds=SECONDS_AN_HOUR)

    def plan_arrived(self, plan: RoundPlan, remaining: float) -> None:
        """A plan came, with so many seconds until its deadline."""
        newest, drawn = self._host.state.memory.newest.get(plan.run, 0), plan.draws(self._name)
        if plan.round < newest:
            self._ignore(plan, f"round {newest} came before it; a run that begins anew needs another name")
        elif plan.round > newest and remaining <= 0:
            self._ignore(plan, f"its deadline was {-remaining:.0f} s ago by this device's clock")
        elif plan.round > newest and not drawn:
            logger.info("%s: this device is not drawn for it", self._where(plan))
        self._host.post(partial(ev.PlanArrived, plan=plan, remaining=remaining, drawn=drawn))

    def slice_arrived(self, content: Slice) -> None:
        """A whole slice came."""
        self._host.post(partial(ev.SliceArrived, content=content))

    def settled(self, parcel: Parcel, receipt: Receipt | None) -> None:
        """A payload has left the outbox: it was counted or refused for good, as its receipt says, or (None) lost."""
        selection = parcel.selection
        if receipt is not None:
            bundle = None if selection is None else selection.bundle
            self._host.spawn(self._settle(parcel.run, parcel.round, receipt.accepted, bundle))
            if receipt.ledger is not None:
                self._host.spawn(self._compare_ledgers(parcel, receipt.ledger))
        if receipt is not None and receipt.accepted and selection is not None:
            self._host.post(partial(ev.UpdateAccepted, selection=selection))
            self._watcher.round_counted()
        self._host.post(partial(ev.Settled, run=parcel.run, round=parcel.round))

    @property
    def doing(self) -> str:
        """What the device does, in words."""
        phase = self._host.state
        words = _DOING[type(phase)]
        return f"run {phase.task.plan.run} round {phase.task.plan.round}: {words}" if isinstance(phase, Busy) else words

    def halt(self) -> None:
        """Begin no further step."""
        self._stop_job.set()

    async def close(self) -> None:
        """End what is going on."""
        self.halt()
        await self._host.close()

    def _advance(self, phase: Phase, happened: ev.Event) -> tuple[Phase, tuple[ev.Command, ...]]:
        following, commands = advance(phase, happened)
        self._watcher.round_changed(not isinstance(following, Idle | Delivering))
        return following, commands

    def _carry_out(self, command: ev.Command) -> None:
        if isinstance(command, ev.Begin):
            self._report(command)
        elif isinstance(command, ev.GiveUp):
            self._give_up(command)
        elif isinstance(command, ev.ExpectSlice):
            early = self._tools.downlink.slice_of(command.plan.run, command.plan.round)
            if early is not None:
                asyncio.get_running_loop().call_soon(self.slice_arrived, early)
        elif isinstance(command, ev.Fetch):
            self._start_job(partial(self._fetch, command))
        elif isinstance(command, ev.Train):
            self._start_job(partial(self._train, command, self._seconds_left(asyncio.get_running_loop().time)))
        elif isinstance(command, ev.Store):
            self._host.spawn(self._store(command))

    def _start_job(self, job: Callable[[Flag], Make]) -> None:
        self._stop_job.set()
        self._stop_job = Flag()
        self._host.spawn(self._run_job(job, self._stop_job))

    async def _run_job(self, job: Callable[[Flag], Make], stop: Flag) -> None:
        async with self._job_lock:
            if not stop.is_set():
                executor = self._tools.executor
                self._host.post(await asyncio.get_running_loop().run_in_executor(executor, job, stop))
                if self._faulty:
                    self._faulty = False
                    self._watcher.fault_seen()

    async def _settle(self, run: str, number: int, accepted: bool, bundle: str | None) -> None:
        """Between two jobs: a training carries off the residual that it found."""
        async with self._job_lock:
            await asyncio.to_thread(self._tools.work.answered, run, number, accepted, bundle)

    async def _compare_ledgers(self, parcel: Parcel, seen: LedgerMark) -> None:
        """Before the next job: a round whose plan came after the receipt is not begun where the ledger is refused."""
        async with self._job_lock:
            try:
                await asyncio.to_thread(self._tools.work.ledger_seen, seen)
            except (LedgerError, LedgerDiskError) as error:
                logger.error("%s: run %s round %d: %s", self._name, parcel.run, parcel.round, error)

    def _fetch(self, command: ev.Fetch, stop: Flag) -> Make:
        plan, tools = command.plan, self._tools
        try:
            tools.watch.require_may_begin()
            tools.work.fetch(command, stop)
            tools.store.require_room(tools.work.update_bytes(plan))
        except Exception as error:
            return self._failed(plan, error)
        return partial(ev.ModelFetched, run=plan.run, round=plan.round)

    def _seconds_left(self, clock: Callable[[], float]) -> Callable[[], float]:
        """Says, on any thread, how long the round at hand has until its deadline."""

        def left() -> float:
            phase = self._host.state
            return phase.task.expires - clock() if isinstance(phase, Busy) else 0.0

        return left

    def _train(self, command: ev.Train, left_seconds: Callable[[], float], stop: Flag) -> Make:
        plan, tools = command.plan, self._tools
        try:
            tools.store.require_room(tools.work.update_bytes(plan))
            tools.watch.require_may_begin()
            pacer = StepPacer(stop, tools.watch.pace, left_seconds, tools.progress.moved)
            with tools.progress.working():
                return self._update(plan, tools.work.train(command, pacer))
        except StoppedError as error:
            logger.info("%s: %s", self._where(plan), error)
            return ev.Tick  # nothing is sent, as the round may begin anew after a restart
        except Exception as error:
            return self._failed(plan, error)

    def _update(self, plan: RoundPlan, trained: Trained) -> Make:
        update, selection = trained.update, trained.selection
        payload = self._tools.credentials.seal_update(plan.run, plan.round, encode(update))
        most = self._tools.store.max_payload_bytes
        if len(payload) > most:
            logger.error("%s: an update of %d bytes, outbox_mb allows %d", self._where(plan), len(payload), most)
            return self._decline(plan, "internal")
        widths, sizes = selection.sub_model.widths, self._tools.work.group_sizes
        kept = ", ".join(f"{group} {count}/{sizes[group]}" for group, count in widths.items())
        logger.info("%s: neurons kept: %s", self._where(plan), kept or "all, as none can be cut")
        loss = "privately" if trained.loss is None else f"loss {trained.loss:.4f}"
        logger.info("%s: trained, %s; update of %d bytes", self._where(plan), loss, len(payload))
        return partial(ev.Answered, run=plan.run, round=plan.round, payload=payload, selection=selection)

    def _failed(self, plan: RoundPlan, error: Exception) -> Make:
        """What is to be tried again, and what the server is told there will be no update for."""
        mine: dict[str, Any] = {"run": plan.run, "round": plan.round}
        if isinstance(error, SliceError):
            logger.warning("%s: %s", self._where(plan), error)
            return partial(ev.SliceRefused, **mine)
        if isinstance(error, BundleError | OutboxError | LedgerDiskError):
            self._again("%s: not now: %s", self._where(plan), error)
            return partial(ev.FetchFailed, reason=str(error), **mine)
        if isinstance(error, PausedError | CannotAffordError):
            logger.warning("%s: sits this round out: %s", self._where(plan), error)
            return self._decline(plan, "paused" if isinstance(error, PausedError) else "cannot-afford")
        if isinstance(error, BudgetSpentError | LedgerError | NotPrivateError):
            logger.warning("%s: takes no part: %s", self._where(plan), error)
            return self._decline(plan, "not-private" if isinstance(error, NotPrivateError) else "budget-spent")
        if isinstance(error, FisherfleetError):
            logger.warning("%s: there is no update: %s", self._where(plan), error)
            return self._decline(plan, "data" if isinstance(error, ExamplesError) else "training")
        logger.error("%s: there is no update: unexpected error", self._where(plan), exc_info=error)
        return self._decline(plan, "internal")

    def _decline(self, plan: RoundPlan, cause: DeclineCause) -> Make:
        self._faulty = cause == "internal"
        body = encode(Decline(run=plan.run, round=plan.round, cause=cause))
        payload = self._tools.credentials.seal_update(plan.run, plan.round, body)
        return partial(ev.Answered, run=plan.run, round=plan.round, payload=payload, selection=None)

    async def _store(self, command: ev.Store) -> None:
        plan = command.plan
        mine: dict[str, Any] = {"run": plan.run, "round": plan.round}
        job = partial(self._tools.store.store, plan.run, plan.round, command.payload, command.selection)
        try:
            stored = await asyncio.to_thread(job)
        except Exception as error:
            if isinstance(error, OutboxError):
                self._again("%s: not sent yet: %s", self._where(plan), error)
            else:
                logger.error("%s: not sent yet: unexpected error", self._where(plan), exc_info=error)
            self._host.post(partial(ev.StoreFailed, **mine))
            if not self._is_at(plan):
                self._host.spawn(self._settle(plan.run, plan.round, False, plan.bundle))
            return
        self._stored(stored)
        self._host.post(partial(ev.Stored, **mine))

    def _give_up(self, command: ev.GiveUp) -> None:
        plan = command.plan
        logger.warning("%s: given up: %s", self._where(plan), command.reason)
        self._stop_job.set()
        self._host.spawn(self._settle(plan.run, plan.round, False, plan.bundle))

    def _is_at(self, plan: RoundPlan) -> bool:
        phase = self._host.state
        return isinstance(phase, Busy) and (phase.task.plan.run, phase.task.plan.round) == (plan.run, plan.round)

    def _report(self, command: ev.Begin) -> None:
        plan = command.plan
        kind = "neurons are chosen afresh" if plan.resync else f"neurons of round {plan.resync_round}"
        logger.info(
            "%s: plan: %d steps of %d examples at rate %g, keep %g, %s",
            *(self._where(plan), plan.local_steps, plan.batch_size, plan.learning_rate, plan.keep, kind),
        )

    def _again(self, text: str, *arguments: object) -> None:
        """What is tried again each minute is not said as often; on any thread."""
        self._failures.log(time.monotonic(), text, *arguments)

    def _ignore(self, plan: RoundPlan, why: str) -> None:
        self._limit.log(asyncio.get_running_loop().time(), "%s: plan ignored: %s", self._where(plan), why)

    def _where(self, plan: RoundPlan) -> str:
        return f"{self._name}: run {plan.run} round {plan.round}"
