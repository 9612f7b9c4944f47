"""One run's server: broker link, HTTP interface, database and rounds, wired together and kept going.

Messages are handled as they come (assembling, asking for chunks); whatever takes time or touches the disk goes through
one inbox and is done one batch at a time, heavy parts in a worker thread. So a round cannot close while an update is
being counted, and nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from server import coordinator
from server.answers import Answers
from server.api.sources import Sources
from server.app import create_app
from server.broker_tls import broker_tls
from server.bundle import Bundle, open_bundle
from server.cancellation import end_tasks
from server.clocks import SYSTEM_CLOCKS, Clocks
from server.config import RunConfig, ServiceSettings
from server.counting import Counting
from server.courier import Courier
from server.downlink import Downlink
from server.errors import AddressError, BundleError, ServerError, StorageError
from server.evaluation import Evaluator
from server.file_post import FilePost, Office, Shelf
from server.http_server import HttpServer
from server.inbox import Inbox, StateReport, Waiting
from server.intake import Intake
from server.metrics import Levels, Metrics
from server.model_files import ModelFiles
from server.mqtt_ingest import MqttLink
from server.opening import open_update
from server.operator_keys import load_operator
from server.partial_files import PartialFiles
from server.records import DeviceRecord, RoundRecord
from server.registry import REGISTRY_NAME, Registry
from server.rounds import Rounds, Workplace
from server.run_history import resume
from server.sealed_files import SealedFiles
from server.spool import Spool
from server.state_lock import StateLock
from server.storage import Store
from server.traffic import Traffic
from server.uplink import DEFAULT_BUDGET_BYTES, Complete, Uplink, max_update_size
from wire_protocol import bundle_manifest
from wire_protocol.examples import Examples, fit_examples
from wire_protocol.topics import Part

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_FLUSH_SECONDS = 5.0
_BATCH = 256
"""Items done together at most; what they hold is bounded by the inbox and the uplink's budget."""


def _ignore(record: RoundRecord) -> None:
    del record


class Service:
    """Serves one run: `async with Service(settings) as service: await service.run()`, or `run()` alone.

    `on_round` is called in the event loop after every closed round. Making a service opens the bundle, the fleet's keys
    and the state folder, which it holds against other servers until `close`; it may raise any `FisherfleetError`.
    """

    def __init__(
        self,
        settings: ServiceSettings,
        on_round: Callable[[RoundRecord], None] = _ignore,
        clocks: Clocks = SYSTEM_CLOCKS,
    ) -> None:
        self._settings = settings
        self._clocks = clocks
        self._bundle = open_bundle(settings.bundle)
        self._operator = load_operator(settings.fleet)
        self._registry = Registry.load(settings.fleet / REGISTRY_NAME)
        self._traffic = Traffic()
        self._inbox = Inbox()
        self._metrics = Metrics(CollectorRegistry())
        self._http: HttpServer | None = None
        self._background: list[asyncio.Task[None]] = []
        self._rounds, self._link = self._open(on_round)
        self._wire()

    def _open(self, on_round: Callable[[RoundRecord], None]) -> tuple[Rounds, MqttLink]:
        """What can fail half-way: the state folder is let go of again then."""
        settings, run = self._settings, self._settings.run.run
        held_out = _open_evaluator(settings, self._bundle)
        tls = broker_tls(settings.fleet, settings.ca_file) if settings.broker.tls else None
        with ExitStack() as opened:
            self._lock = StateLock(settings.state)
            opened.callback(self._lock.release)
            self.store = Store(settings.state, settings.database)
            opened.callback(self.store.close)
            self.store.claim()
            link = MqttLink(settings.broker, tls, f"server-{run}", self._on_connected, self._on_message)
            self._downlink = Downlink(link.send, self._traffic, settings.chunk_bytes, self._operator)
            self._models = ModelFiles(settings.state, run, offered=_models_offered(settings.run))
            self._uplink = Uplink(
                budget_bytes=DEFAULT_BUDGET_BYTES,
                max_payload=max_update_size(self._bundle.layout, settings.run.codec),
                partial=PartialFiles(settings.state / "partial", run),
                clock=self._clocks.steady,
            )
            self._post = FilePost(
                Office(self._operator, self._registry, self._traffic, link.publish),
                Shelf(self._bundle, self._models),
                SealedFiles(settings.state / "courier", self._clocks.steady),
                settings.chunk_bytes,
                Courier(settings.chunk_bytes, self._clocks.steady),
            )
            standing = resume(self.store, self._models, self._bundle, settings.run, self._clocks.wall())
            workplace = Workplace(
                config=settings.run,
                bundle=self._bundle,
                store=self.store,
                models=self._models,
                spool=Spool(settings.state, run),
                registry=self._registry,
                downlink=self._downlink,
                traffic=self._traffic,
                held_out=held_out,
                clocks=self._clocks,
                uplink=self._uplink,
                metrics=self._metrics,
            )
            rounds = Rounds(workplace, standing, on_round)
            opened.pop_all()
        return rounds, link

    def _wire(self) -> None:
        settings = self._settings
        counting = Counting(
            lambda complete: open_update(complete, self._operator, self._registry),
            self._bundle.layout,
            self.store.updates,
        )
        self._answers = Answers(self._rounds, counting, self.store, self._registry, self._clocks)
        self._intake = Intake(
            run=settings.run.run,
            uplink=self._uplink,
            downlink=self._downlink,
            traffic=self._traffic,
            answers=self._answers,
            inbox=self._inbox,
            registry=self._registry,
            on_want=self._post.on_want,
            clock=self._clocks.steady,
        )

    def _on_message(self, topic: str, payload: bytes) -> None:
        self._intake.on_message(topic, payload)

    def _on_connected(self) -> None:
        self._rounds.publish_plan()

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP interface while the service is entered, with the port really bound."""
        if self._http is None:
            raise ServerError("the service is not started: enter it with `async with` before asking for its URL")
        return self._http.url

    @property
    def run_finished(self) -> bool:
        """Whether all rounds are closed."""
        return self._rounds.finished

    def latest_parameters(self) -> dict[str, NDArray[Any]]:
        """The model after the last closed round: full float32 arrays by name."""
        return dict(self._rounds.parameters)

    def _levels(self) -> Levels:
        return Levels(
            inbox_items=len(self._inbox),
            uplink_bytes=self._uplink.outstanding,
            uplink_budget=self._uplink.budget_bytes,
            devices_online=len(self._rounds.online),
            devices_quarantined=len(self.store.quarantine.held),
            broker_connected=self._link.connected,
            traffic=self._traffic.total,
        )

    def close(self) -> None:
        """Let go of the state folder; for a service that was never entered. Reading `store` still works."""
        self.store.close()
        self._lock.release()

    async def __aenter__(self) -> Service:
        sources = Sources(
            store=self.store,
            bundle=self._bundle,
            models=self._models,
            traffic=self._traffic,
            broker_connected=lambda: self._link.connected,
            metrics=self._metrics.registry,
        )
        self._metrics.ask(self._levels)
        try:
            await self._rounds.prepare()
            self._http = HttpServer(create_app(sources), self._settings.host, self._settings.port)
        except (AddressError, BundleError, StorageError):
            self.close()
            raise
        self._background.append(await self._http.start())
        self._background.append(asyncio.create_task(self._link.run(), name="mqtt"))
        self._background.append(asyncio.create_task(self._post.run(), name="file post"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await end_tasks(self._background[1:])
        self.store.events.end_following()
        if self._http is not None:
            await self._http.stop()
            self._http = None
        self._background.clear()
        try:
            self.store.forget_presence()
        except StorageError as failure:
            logger.warning("who is online could not be forgotten: %s", failure)
        self.close()

    async def run(self) -> None:
        """Return when all rounds are closed. Cancelled or killed, another service goes on from the state folder."""
        if self._http is None:
            async with self:
                await self._run_rounds()
        else:
            await self._run_rounds()

    async def _run_rounds(self) -> None:
        try:
            await self._rounds.decide()
            while not self.run_finished:
                await self._take_a_turn()
                await self._rounds.decide()
        finally:
            if self.run_finished:
                await self._withdraw_plan()

    async def _take_a_turn(self) -> None:
        if self._link.connected:
            await self._rounds.send_due_slices()
        waiting = await self._next_items()
        await self._take_states(waiting.states)
        await self._take_updates(waiting.updates)
        await self._answers.flag_conflicts()
        self._rounds.watch.look(len(self._inbox), goes_on=not self.run_finished)

    async def _next_items(self) -> Waiting:
        for task in self._background:
            if task.done():
                task.result()
                raise ServerError(f"the service's {task.get_name()} task ended unexpectedly")
        try:
            async with asyncio.timeout(_TICK_SECONDS):
                return await self._inbox.get_batch(_BATCH)
        except TimeoutError:
            self._leave_out_revoked()
            return Waiting()

    def _leave_out_revoked(self) -> None:
        for device in self._rounds.online:
            if not self._registry.keys(device) or self.store.quarantine.holds(device):
                logger.warning("device %s was revoked or is in quarantine: it is not waited for", device)
                self._rounds.observe(coordinator.DeviceOffline(device))

    async def _take_updates(self, completes: deque[Complete]) -> None:
        parts = [complete.part for complete in completes]
        loop = asyncio.get_running_loop()

        def let_go(part: Part) -> None:
            loop.call_soon_threadsafe(self._let_go, part)

        try:
            if completes:
                for device, receipt in await self._answers.count(completes, let_go):
                    self._downlink.receipt(device, receipt)
        finally:
            for part in parts:
                self._uplink.release(part)
        self._intake.on_tick()
        self._rounds.repeat_plan()

    def _let_go(self, part: Part) -> None:
        self._uplink.let_go(part)
        self._intake.on_tick()

    async def _take_states(self, reports: Sequence[StateReport]) -> None:
        known = [report for report in reports if self._registry.keys(report.device)]
        present = {one.device for one in known if one.state.online and not self.store.quarantine.holds(one.device)}
        arrived = present - self._rounds.online
        departed = {report.device for report in known if not report.state.online} & self._rounds.online
        self.store.events.presence(arrived, departed)
        for device in (report.device for report in known):
            online = coordinator.DeviceOnline(device) if device in present else coordinator.DeviceOffline(device)
            self._rounds.observe(online)
        if arrived and self._rounds.work is not None:
            self._downlink.retained_plan_read(self._rounds.work.plan, len(arrived))
        now = self._clocks.wall()
        try:
            await asyncio.to_thread(self.store.save_devices, [_record(report, now) for report in known])
        except StorageError as error:
            logger.error("the states of %d devices could not be written down: %s", len(known), error)

    async def _withdraw_plan(self) -> None:
        run = self._settings.run.run
        self._downlink.withdraw_plan(run)
        if not await self._link.flush(_FLUSH_SECONDS):
            logger.warning("run %s: the broker is away, its last plan stays retained until its deadline", run)


def _models_offered(run: RunConfig) -> int:
    """The models of all rounds whose updates count: devices may be fetching any of them."""
    return 1 + (run.buffer.most_stale if run.buffer is not None else 0)


def _record(report: StateReport, now: float) -> DeviceRecord:
    state = report.state
    return DeviceRecord(report.device, state.online, state.examples, state.runtime, state.client, now)


def _open_evaluator(settings: ServiceSettings, bundle: Bundle) -> tuple[Evaluator, Examples] | None:
    if settings.test is None:
        return None
    test = fit_examples(settings.test, bundle.manifest, "the test examples")
    graph = bundle.file(bundle_manifest.EVALUATE)
    if graph is None:
        raise ServerError(f"bundle {bundle.folder} has no {bundle_manifest.EVALUATE} to test a model with")
    return Evaluator(graph, settings.evaluation_threads), test
