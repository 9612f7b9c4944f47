"""The imperative shell: carries out the coordinator's commands with storage, broker, HTTP and evaluation.

Messages are handled as they come (assembling, asking for missing chunks); whatever takes time or touches the disk goes
through one inbox and is done one item at a time, heavy parts in a worker thread. So a round cannot close while an
update is being counted, and nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import msgspec
from numpy.typing import NDArray

from server import coordinator, resync
from server.api.sources import Sources
from server.app import create_app
from server.bundle import open_bundle
from server.cancellation import end_tasks
from server.config import RunConfig, ServiceSettings
from server.coordinator import Collecting, Event, Finished, Schedule
from server.downlink import Downlink
from server.errors import AddressError, NobodyCanError, ServerError, StorageError
from server.evaluation import Evaluation, Evaluator
from server.http_server import HttpServer
from server.inbox import Inbox, StateReport
from server.intake import Intake
from server.model_files import ModelFiles
from server.mqtt_ingest import MqttLink
from server.receipts import refusal
from server.records import DeviceRecord, RoundRecord, UpdateRecord
from server.round_work import RoundWork
from server.run_history import resume
from server.screening import Refused, Screened, screen
from server.storage import Store
from server.traffic import Traffic
from server.uplink import Complete, Uplink, max_update_size
from wire_protocol import bundle_manifest
from wire_protocol.examples import Examples, fit_examples
from wire_protocol.messages import Receipt, RoundPlan
from wire_protocol.sub_model import SubModel
from wire_protocol.topics import Part

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_FLUSH_SECONDS = 5.0


def _schedule(config: RunConfig) -> Schedule:
    return Schedule(config.rounds, config.resync_every, config.min_devices, config.round_seconds, config.give_up)


def _ignore(record: RoundRecord) -> None:
    del record


class Service:
    """Serves one run: `async with Service(settings) as service: await service.run()`, or `run()` alone.

    `on_round` is called in the event loop after every closed round. `clock` gives seconds since the Unix epoch.
    Making a service opens the bundle and the state folder and may raise any `ServerError` or `ExamplesError`.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        on_round: Callable[[RoundRecord], None] = _ignore,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._settings = settings
        self._config = settings.run
        self._on_round = on_round
        self._clock = clock
        self._bundle = open_bundle(settings.bundle)
        self._layout = self._bundle.layout
        self._held_out = self._open_evaluator()
        self.store = Store(settings.state)
        self._models = ModelFiles(settings.state, self._config.run)
        standing = resume(self.store, self._models, self._bundle, self._config, clock())
        self._parameters, self._version = standing.parameters, standing.version
        self._state = coordinator.begin(_schedule(self._config), standing.next_round, standing.closed)
        self._traffic = Traffic()
        self._traffic_closed = self._traffic.total
        self._work: RoundWork | None = None
        self._selections: dict[str, SubModel] = {}
        self._inbox = Inbox()
        self._http: HttpServer | None = None
        self._background: list[asyncio.Task[None]] = []
        self._wire()

    def _wire(self) -> None:
        settings, run = self._settings, self._config.run
        self._link = MqttLink(settings.broker, settings.ca_file, f"server-{run}", self._on_connected, self._on_message)
        self._downlink = Downlink(self._link.send, self._traffic, settings.chunk_bytes)
        self._uplink = Uplink(max_update_size(self._layout, self._config.codec))
        self._intake = Intake(run, self._uplink, self._downlink, self._traffic, self, self._inbox)

    def _on_message(self, topic: str, payload: bytes) -> None:
        self._intake.on_message(topic, payload)

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP interface while the service is entered, with the port really bound."""
        if self._http is None:
            raise ServerError("the service is not started: enter it with `async with` before asking for its URL")
        return self._http.url

    @property
    def run_finished(self) -> bool:
        """Whether all rounds are closed."""
        return isinstance(self._state.phase, Finished)

    def latest_parameters(self) -> dict[str, NDArray[Any]]:
        """The model after the last closed round: full float32 arrays by name."""
        return dict(self._parameters)

    async def __aenter__(self) -> Service:
        sources = Sources(self.store, self._bundle, self._models, self._traffic, lambda: self._link.connected)
        try:
            self._http = HttpServer(create_app(sources), self._settings.host, self._settings.port)
        except AddressError:
            self.store.close()
            raise
        self._background.append(await self._http.start())
        self._background.append(asyncio.create_task(self._link.run(), name="mqtt"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._withdraw_plan()
        await end_tasks(self._background[1:])
        if self._http is not None:
            await self._http.stop()
            self._http = None
        self._background.clear()
        self.store.close()

    async def run(self) -> None:
        """Return when all rounds are closed. Cancelled, all that is closed so far is on disk."""
        if self._http is None:
            async with self:
                await self._run_rounds()
        else:
            await self._run_rounds()

    async def _run_rounds(self) -> None:
        while True:
            await self._decide()
            if self.run_finished:
                return
            item = await self._next_item()
            if isinstance(item, Complete):
                await self._take_update(item)
            elif item is not None:
                await self._take_state(item)

    async def _next_item(self) -> StateReport | Complete | None:
        for task in self._background:
            if task.done():
                task.result()
                raise ServerError(f"the service's {task.get_name()} task ended unexpectedly")
        try:
            async with asyncio.timeout(_TICK_SECONDS):
                return await self._inbox.get()
        except TimeoutError:
            return None

    def _observe(self, event: Event) -> tuple[coordinator.Command, ...]:
        self._state, commands = coordinator.step(self._state, event)
        return commands

    async def _decide(self) -> None:
        while commands := self._observe(coordinator.Tick(self._clock())):
            for command in commands:
                await self._carry_out(command)

    async def _carry_out(self, command: coordinator.Command) -> None:
        match command:
            case coordinator.OpenRound():
                await self._open_round(command)
            case coordinator.ExtendRound():
                self._extend_round(command)
            case coordinator.CloseRound():
                await self._close_round()
            case coordinator.AbandonRound(number):
                logger.warning("round %d: given up, as every device online declined or was refused", number)
                await asyncio.to_thread(self.store.abandon_open_rounds, self._config.run)
            case coordinator.GiveUp(number):
                await asyncio.to_thread(self.store.abandon_open_rounds, self._config.run)
                assert self._work is not None
                raise NobodyCanError(f"round {number}: no device has an update; {self._work.book.last_refusal}")
            case coordinator.Finish():
                await self._withdraw_plan()

    async def _open_round(self, command: coordinator.OpenRound) -> None:
        encoded = await asyncio.to_thread(resync.encode_model, self._layout, self._parameters, self._config.downlink)
        plan = self._plan(command, await asyncio.to_thread(self._models.publish, encoded))
        await asyncio.to_thread(self.store.open_round, plan.run, plan.round, plan.resync)
        if plan.resync:
            self._selections.clear()
        self._uplink.clear()
        self._work = RoundWork(plan, self._layout, time.monotonic())
        self._downlink.plan(plan, len(self._state.online))
        logger.debug("round %d is open for %d devices", plan.round, len(self._state.online))
        for device in sorted(self._selections.keys() & self._state.online):
            selection = self._selections[device]
            payload = await asyncio.to_thread(resync.encode_slice, self._layout, self._parameters, selection, plan)
            self._downlink.slice_(device, plan, payload)

    def _plan(self, command: coordinator.OpenRound, model: str) -> RoundPlan:
        config = self._config
        return RoundPlan(
            run=config.run,
            round=command.round,
            resync_round=command.resync_round,
            model_version=self._version,
            bundle=self._bundle.id,
            model=model,
            deadline=command.deadline,
            local_steps=config.local_steps,
            batch_size=config.batch_size,
            learning_rate=config.learning_rate,
            keep=config.keep,
            selection=config.selection,
            precision=config.precision,
            top_k=config.top_k,
            downlink=config.downlink,
            noise_stddev=config.noise_stddev,
        )

    def _extend_round(self, command: coordinator.ExtendRound) -> None:
        assert self._work is not None
        self._work.plan = msgspec.structs.replace(self._work.plan, deadline=command.deadline)
        online = len(self._state.online)
        logger.warning("round %d: no update in time, %d devices online; waiting on", command.round, online)
        self._downlink.plan(self._work.plan, online)

    async def _close_round(self) -> None:
        assert self._work is not None
        work = self._work
        parameters, evaluation = await asyncio.to_thread(self._apply, work)
        spent, self._traffic_closed = self._traffic.total - self._traffic_closed, self._traffic.total
        record = work.record(evaluation, spent, time.monotonic())
        await asyncio.to_thread(self.store.close_round, work.plan.run, record)
        self._parameters, self._version = parameters, record.model_version
        self._observe(coordinator.RoundApplied(work.plan.round))
        self._on_round(record)

    def _apply(self, work: RoundWork) -> tuple[dict[str, NDArray[Any]], Evaluation | None]:
        parameters = work.next_parameters(self._parameters)
        self._models.save_version(work.plan.model_version + 1, parameters)
        if self._held_out is None:
            return parameters, None
        evaluator, examples = self._held_out
        return parameters, evaluator.evaluate(parameters, examples)

    async def _withdraw_plan(self) -> None:
        if self._work is None:
            return
        run = self._work.plan.run
        self._work = None
        self._downlink.withdraw_plan(run)
        if not await self._link.flush(_FLUSH_SECONDS):
            logger.warning("run %s: the broker is away, its last plan stays retained until its deadline", run)

    def _on_connected(self) -> None:
        if self._work is None:
            self._downlink.withdraw_plan(self._config.run)
        else:
            self._downlink.plan(self._work.plan, len(self._state.online))

    def standing(self, part: Part, sha256: bytes) -> Receipt | None:
        """The answer to give to an announced update at once, or None when it is to be sent and judged."""
        work, phase = self._work, self._state.phase
        if work is not None and part.round == work.plan.round:
            receipt = work.book.standing(part, sha256)
            if receipt is not None or (isinstance(phase, Collecting) and phase.round == part.round):
                return receipt
        elif self.store.counted_hash(part.run, part.round, part.device) == sha256:
            return Receipt(run=part.run, round=part.round, sha256=sha256, accepted=True)
        return self.refuse(part, sha256, f"round {part.round} is not open")

    def refuse(self, part: Part, sha256: bytes, reason: str) -> Receipt:
        """Refuse an update for good; the device is told why."""
        logger.info("round %d: update of %s refused: %.300r", part.round, part.device, reason)
        if self._work is None:
            return refusal(part, sha256, reason)
        self._observe(coordinator.UpdateRefused(part.device, part.round))
        return self._work.book.refuse(part, sha256, reason)

    async def _take_update(self, complete: Complete) -> None:
        part = complete.part
        try:
            receipt = self.standing(part, complete.sha256) or await self._judge(complete)
        except Exception:
            logger.exception("round %d: counting the update of %s failed; it may come again", part.round, part.device)
            return
        finally:
            self._uplink.release(part)
        self._downlink.receipt(part.device, receipt)

    async def _judge(self, complete: Complete) -> Receipt:
        assert self._work is not None
        part, work = complete.part, self._work
        verdict = await asyncio.to_thread(self._count, work, complete)
        if isinstance(verdict, Refused):
            return self.refuse(part, complete.sha256, verdict.reason)
        receipt = work.book.accept(part, complete.sha256)
        self._selections[part.device] = verdict.sub_model
        self._observe(coordinator.UpdateCounted(part.device, part.round))
        await asyncio.to_thread(self.store.save_kept, part.device, verdict.sub_model.widths, self._clock())
        return receipt

    def _count(self, work: RoundWork, complete: Complete) -> Screened | Refused:
        """Nothing that can fail may follow `work.count`: the update would come again and be counted twice."""
        verdict = screen(complete.payload, work.plan, self._layout, self._selections.get(complete.part.device))
        if isinstance(verdict, Refused):
            return verdict
        part = complete.part
        counted = self.store.count_update(UpdateRecord(part.run, part.round, part.device, complete.sha256))
        if counted != complete.sha256:
            return Refused("another update of this device was counted in this round")
        work.count(verdict)
        return verdict

    async def _take_state(self, report: StateReport) -> None:
        device, state = report.device, report.state
        arrived = state.online and device not in self._state.online
        self._observe(coordinator.DeviceOnline(device) if state.online else coordinator.DeviceOffline(device))
        if arrived and self._work is not None:
            self._downlink.retained_plan_read(self._work.plan)
        record = DeviceRecord(device, state.online, state.examples, state.runtime, state.client, self._clock())
        try:
            await asyncio.to_thread(self.store.save_device, record)
        except StorageError:
            logger.exception("the state of %s could not be written down", device)

    def _open_evaluator(self) -> tuple[Evaluator, Examples] | None:
        if self._settings.test is None:
            return None
        test = fit_examples(self._settings.test, self._bundle.manifest, "the test examples")
        graph = self._bundle.file(bundle_manifest.EVALUATE)
        if graph is None:
            raise ServerError(f"bundle {self._bundle.folder} has no {bundle_manifest.EVALUATE} to test a model with")
        return Evaluator(graph, self._settings.evaluation_threads), test
