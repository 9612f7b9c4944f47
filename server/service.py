"""A fleet's server: broker link, HTTP interface, database and runs, wired together and kept going.

Messages are handled as they come (assembling, asking for chunks); whatever takes time or touches the disk goes through
one inbox and is done one batch at a time, heavy parts in a worker thread. So a round cannot close while an update is
being counted, and nothing needs a lock.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

from numpy.typing import NDArray
from prometheus_client import CollectorRegistry

from server import coordinator
from server.active_runs import ActiveRuns
from server.api.sources import Sources
from server.app import create_app
from server.broker_tls import broker_tls
from server.cancellation import end_tasks
from server.clocks import SYSTEM_CLOCKS, Clocks
from server.config import ServiceSettings
from server.control import Control
from server.courier import Courier
from server.downlink import Downlink
from server.errors import ServerError, StorageError
from server.file_post import FilePost, Office
from server.fleet.fleet_folder import FleetFolder
from server.http_server import HttpServer
from server.inbox import Inbox, StateReport, Waiting
from server.intake import Intake
from server.metrics import Levels, Metrics
from server.mqtt_ingest import MqttLink
from server.operator_keys import load_operator
from server.presence import Presence
from server.records import DeviceRecord, RoundRecord
from server.registry import REGISTRY_NAME, Registry
from server.releases.release_post import ReleasePost, ReleaseRecords
from server.run_files import RunFiles
from server.run_host import Premises, RunHost
from server.runs import Runs
from server.sealed_files import SealedFiles
from server.shelf import Shelf
from server.state_lock import StateLock
from server.storage import Store
from server.traffic import Traffic
from wire_protocol.errors import FisherfleetError

logger = logging.getLogger(__name__)

_TICK_SECONDS = 0.25
_FLUSH_SECONDS = 5.0
_BATCH = 256
"""Items done together at most; what they hold is bounded by the inbox and the uplinks' budgets."""

OnRound = Callable[[str, RoundRecord], None]


def _ignore(run: str, record: RoundRecord) -> None:
    del run, record


class Service:
    """Serves a fleet: `async with Service(settings) as service: await service.run()`, or `run()` alone.

    `on_round` is called in the event loop after every closed round, with its run. Making a service opens the fleet's
    keys, the state folder, which it holds against other servers until `close`, and its runs; it may raise any
    `FisherfleetError`.
    """

    def __init__(self, settings: ServiceSettings, on_round: OnRound = _ignore, clocks: Clocks = SYSTEM_CLOCKS) -> None:
        self._settings = settings
        self._clocks = clocks
        self._operator = load_operator(settings.fleet)
        self._registry = Registry.load(settings.fleet / REGISTRY_NAME)
        self._traffic = Traffic()
        self._inbox = Inbox()
        self._metrics = Metrics(CollectorRegistry())
        self._http: HttpServer | None = None
        self._background: list[asyncio.Task[None]] = []
        self._open(on_round)

    def _open(self, on_round: OnRound) -> None:
        """What can fail half-way: the state folder is let go of again then."""
        settings = self._settings
        tls = broker_tls(settings.fleet, settings.ca_file) if settings.broker.tls else None
        with ExitStack() as opened:
            self._lock = StateLock(settings.state)
            opened.callback(self._lock.release)
            self.store = Store(settings.state, settings.database, settings.archive)
            opened.callback(self.store.close)
            self.store.claim()
            name = f"server-{self._operator.fleet}"
            self._link = MqttLink(settings.broker, tls, name, self._on_connected, self._on_message)
            self._downlink = Downlink(self._link.send, self._traffic, settings.chunk_bytes, self._operator)
            self._presence = Presence(device.id for device in self.store.devices() if device.online)
            self._open_runs(on_round)
            self._post = self._open_post()
            self._releases = self._open_releases()
            opened.pop_all()
        self._intake = Intake(
            desks=self.active.desks,
            downlink=self._downlink,
            traffic=self._traffic,
            inbox=self._inbox,
            registry=self._registry,
            on_want=self._post.on_want,
            on_report=self._releases.on_report,
            past=self._runs.answer_past,
            clock=self._clocks.steady,
        )

    def _open_runs(self, on_round: OnRound) -> None:
        settings = self._settings
        premises = Premises(
            settings.state,
            self.store,
            self._operator,
            self._registry,
            self._presence,
            self._downlink,
            self._traffic,
            self._clocks,
            settings.evaluation_threads,
            on_round,
            self._metrics,
        )
        self.active = ActiveRuns(premises)
        self._runs = Runs(premises, self.active)
        self._awaited: RunHost | None = None
        if settings.bundle is None:
            self._runs.open_all()
        else:
            self._awaited = self._runs.adopt(settings.bundle, settings.run, settings.test, goes_on=settings.goes_on)
        self._shelf = Shelf(self.active.offered, self.store.releases.archives, self.store.promotions.files)

    def _open_post(self) -> FilePost:
        settings, steady = self._settings, self._clocks.steady
        return FilePost(
            Office(self._operator, self._registry, self._traffic, self._link.publish),
            self._shelf,
            SealedFiles(settings.state / "courier", steady),
            settings.chunk_bytes,
            Courier(settings.chunk_bytes, steady),
        )

    def _open_releases(self) -> ReleasePost:
        records = ReleaseRecords.of(self.store, self._registry)
        return ReleasePost(records, self._operator, self._link.send, self._traffic, self._clocks)

    def _on_message(self, topic: str, payload: bytes) -> None:
        self._intake.on_message(topic, payload)

    def _on_connected(self) -> None:
        self.active.on_connected()
        self._releases.on_connected()

    @property
    def control(self) -> Control:
        """Whom to give orders to."""
        return self._runs

    @property
    def http_url(self) -> str:
        """Base URL of the HTTP interface while the service is entered, with the port really bound."""
        if self._http is None:
            raise ServerError("the service is not started: enter it with `async with` before asking for its URL")
        return self._http.url

    @property
    def run_finished(self) -> bool:
        """Whether the run that the service ends with is over."""
        return self._awaited is not None and self._awaited.rounds.finished

    def latest_parameters(self) -> dict[str, NDArray[Any]]:
        """That run's model after the last closed round: full float32 arrays by name."""
        return dict(self._own_run.rounds.parameters)

    @property
    def run_name(self) -> str:
        """The name of the run that the service ends with."""
        return self._own_run.run

    @property
    def _own_run(self) -> RunHost:
        if self._awaited is None:
            raise ServerError("the service was started without a bundle: it has no run of its own")
        return self._awaited

    def _levels(self) -> Levels:
        return Levels(
            inbox_items=len(self._inbox),
            uplink_bytes=sum(host.uplink.outstanding for host in self.active),
            uplink_budget=sum(host.uplink.budget_bytes for host in self.active),
            devices_online=len(self._presence.online),
            devices_quarantined=len(self.store.quarantine.held),
            broker_connected=self._link.connected,
            traffic=self._traffic.total,
            health=self.store.fleet_health(),
        )

    def close(self) -> None:
        """Let go of the state folder; for a service that was never entered. Reading `store` still works."""
        self.store.close()
        self._lock.release()

    async def __aenter__(self) -> Service:
        sources = Sources(
            store=self.store,
            shelf=self._shelf,
            traffic=self._traffic,
            broker_connected=lambda: self._link.connected,
            control=self._runs,
            registry=self._registry,
            files=RunFiles(self._settings.state),
            fleet=FleetFolder(self._settings.fleet),
            broker=str(self._settings.broker),
            steady=self._clocks.steady,
            metrics=self._metrics.registry,
            offers_changed=self._releases.changed,
        )
        self._metrics.ask(self._levels)
        try:
            await self.active.prepare()
            self._raise_failure()
            self._http = HttpServer(create_app(sources), self._settings.host, self._settings.port)
        except FisherfleetError:
            self.close()
            raise
        self._background.append(await self._http.start())
        self._background.append(asyncio.create_task(self._link.run(), name="mqtt"))
        self._background.append(asyncio.create_task(self._post.run(), name="file post"))
        self._background.append(asyncio.create_task(self._releases.run(), name="release post"))
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
        """Return when the run that the service ends with is over, raising why if it failed; without one never.

        Cancelled or killed, another service goes on from the state folder.
        """
        if self._http is None:
            async with self:
                await self._serve()
        else:
            await self._serve()

    async def _serve(self) -> None:
        try:
            await self._decide()
            while not self.run_finished:
                await self._take_a_turn()
                await self._decide()
        finally:
            if self.run_finished and not await self._link.flush(_FLUSH_SECONDS):
                words = "run %s: the broker is away, its last plan stays retained until its deadline"
                logger.warning(words, self.run_name)

    async def _decide(self) -> None:
        await self.active.decide()
        self._raise_failure()

    def _raise_failure(self) -> None:
        if self._awaited is not None and self._awaited.error is not None:
            raise self._awaited.error

    async def _take_a_turn(self) -> None:
        in_turn = self.active.in_turn()
        if self._link.connected and in_turn is not None:
            await in_turn.rounds.send_due_slices()
        waiting = await self._next_items()
        await self._take_states(waiting.states)
        await self.active.take_updates(waiting.updates)
        await self.active.flag_conflicts()
        self.active.look(len(self._inbox))

    async def _next_items(self) -> Waiting:
        for task in self._background:
            if task.done():
                task.result()
                raise ServerError(f"the service's {task.get_name()} task ended unexpectedly")
        try:
            async with asyncio.timeout(_TICK_SECONDS):
                return await self._inbox.get_batch(_BATCH)
        except TimeoutError:
            self.active.leave_out_revoked()
            return Waiting()

    async def _take_states(self, reports: Sequence[StateReport]) -> None:
        known = [report for report in reports if self._registry.keys(report.device)]
        arrived = {report.device for report in known if report.state.online} - self._presence.online
        departed = {report.device for report in known if not report.state.online} & self._presence.online
        self.store.events.presence(arrived, departed)
        for device, state in ((report.device, report.state) for report in known):
            self._presence.note(device, state.online)
            waited_for = state.online and not self.store.quarantine.holds(device)
            event = coordinator.DeviceOnline(device) if waited_for else coordinator.DeviceOffline(device)
            self.active.observe(event)
        in_turn = self.active.in_turn()
        if in_turn is not None and in_turn.rounds.work is not None:
            self._downlink.retained_plan_read(in_turn.rounds.work.plan, len(arrived))
        now = self._clocks.wall()
        try:
            await asyncio.to_thread(self.store.save_devices, [_record(report, now) for report in known])
        except StorageError as error:
            logger.error("the states of %d devices could not be written down: %s", len(known), error)


def _record(report: StateReport, now: float) -> DeviceRecord:
    state = report.state
    return DeviceRecord(
        *(report.device, state.online, state.examples, state.runtime, state.client, now),
        release=state.release,
        temperature=state.temperature,
        throttled=state.throttled,
        paused=state.paused,
        budget_left=state.budget_left,
        free_mb=state.free_mb,
    )
