"""A device at work: its link, its round and its outbox, wired together.

Events and commands run on the event loop. Nothing that a message, a download, a training or a disk can do ends the
device; only cancellation does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from edge_client.card_wear import written
from edge_client.config import DeviceConfig
from edge_client.courier import Courier
from edge_client.credentials import Credentials, broker_tls, load_credentials, server_tls
from edge_client.delivery_runner import DeliveryRunner
from edge_client.device_status import Status
from edge_client.device_store import DeviceStore, Stored
from edge_client.device_work import DeviceWork
from edge_client.downlink import Downlink, Withdrawn
from edge_client.durable_files import only_user_of
from edge_client.errors import StartAgainError
from edge_client.file_fetch import FileFetch
from edge_client.link_account import LinkAccount
from edge_client.log_limit import LogLimit
from edge_client.machine_sensors import Sensors, require_sensors
from edge_client.machine_watch import MachineWatch
from edge_client.mqtt_link import LinkDown, LinkEvent, LinkSettings, LinkUp, MessageArrived, MqttLink
from edge_client.outbox import Parcel
from edge_client.plan_clock import remaining_seconds
from edge_client.progress import Progress
from edge_client.reporter import Examined, Reporter
from edge_client.round_runner import RoundRunner, Tools
from edge_client.service_manager import READY, ServiceManager
from edge_client.training.choose import OpenRuntime, require_installed
from edge_client.training.choose import open_runtime as open_installed_runtime
from edge_client.updates.device_updates import DeviceUpdates, release_of, require_launched
from edge_client.updates.spare_fetch import SpareFetch
from wire_protocol import topics
from wire_protocol.device_state import DeviceState
from wire_protocol.errors import ProtocolError
from wire_protocol.examples import Examples, load_examples
from wire_protocol.messages import Need, Receipt, RoundPlan, Slice, encode
from wire_protocol.releases import ModelOffer, ReleaseOffer

if TYPE_CHECKING:
    from edge_client.round_fitting import Fitter

logger = logging.getLogger(__name__)

BYTES_PER_MB = 1_000_000

Answering = Callable[[Path, Callable[[], Status]], AbstractAsyncContextManager[None]]
"""Lets others ask for the status of the device whose state is in a folder."""


async def run_device(
    config: DeviceConfig,
    *,
    open_runtime: OpenRuntime = open_installed_runtime,
    executor: Executor | None = None,
    sensors: Sensors = Sensors(),  # noqa: B008 - a frozen value
    manager: ServiceManager | None = None,
    answering: Answering = lambda _state, _status: nullcontext(),
) -> None:
    """Take part in every round until cancelled, then leave cleanly.

    Training and downloads run in `executor` (None: the event loop's own); `manager` is told how it goes; `answering` is
    held open meanwhile and may ask for the device's status at any time. Raises `ConfigError`, `IdentityError`,
    `ExamplesError` or `TrainingError` at once where the device could never take part; afterwards it only logs, and
    raises `StartAgainError` between two rounds where another release is to run.
    """
    require_installed(config.runtime)
    require_launched(config)
    if config.limits is not None:
        require_sensors(config.limits, sensors)
    credentials = load_credentials(config)
    examples = load_examples(config.data, labelled=False)
    watch = MachineWatch(config.limits, sensors)
    with only_user_of(config.state):
        store = DeviceStore(config.state, credentials.fleet.name, config.outbox_mb * BYTES_PER_MB)
        fitter = make_fitter(config, sensors)
        account = LinkAccount(None, sensors.local_time) if fitter is None else fitter.account
        reporter = Reporter(_birth(config, examples), config.report, account)
        link = MqttLink(_link_settings(config, reporter.message))
        courier = Courier(credentials, link.publish)
        fetch = FileFetch(config.download, courier.fetch)
        tls = server_tls(config)
        work = DeviceWork(config, examples, open_runtime, tls, fitter, fetch)
        for selection in store.memory.selections.values():
            work.recall(selection.bundle)
        tools = Tools(credentials, work, store, Downlink(credentials, config.run), watch, Progress(), executor)
        spare = SpareFetch(config.server, tls, fetch, config.limits, account, sensors)
        updates = DeviceUpdates(config, credentials, client_release(), spare, link.publish)
        outside = Outside(link, account, courier, reporter, manager or ServiceManager({}), updates)
        device = _Device(tools, outside)
        async with answering(config.state, device.status):
            await device.run(Examined(watch, sensors, work.budget_left, lambda: work.runtime, config.state))


def make_fitter(config: DeviceConfig, sensors: Sensors) -> Fitter | None:
    """What fits rounds to this device's limits, None where it has none."""
    if config.limits is None:
        return None
    from edge_client.round_fitting import LINK_FILE, Fitter  # noqa: PLC0415 - devices without limits need none

    account = LinkAccount(config.state / LINK_FILE, sensors.local_time)
    return Fitter(config.limits, config.state, account, sensors)


def client_release() -> str:
    """Version of this client, "" where its package is not installed."""
    try:
        return version("fisherfleet")
    except PackageNotFoundError:
        return ""


def client_version() -> str:
    """Name and version of this client, as the server shows them."""
    return f"fisherfleet-edge/{client_release()}".rstrip("/")


def _birth(config: DeviceConfig, examples: Examples) -> DeviceState:
    told = len(examples) if config.privacy.tells_size else 0
    return DeviceState(
        online=True,
        examples=told,
        runtime=config.runtime,
        client=client_version(),
        release=release_of(client_release()),
    )


def _link_settings(config: DeviceConfig, birth: Callable[[], bytes]) -> LinkSettings:
    run = config.run or "+"
    models = (topics.model(run),) if config.updates.models else ()
    return LinkSettings(
        broker=config.broker,
        client_id=config.device,
        filters=(topics.downlink_filter(config.device), topics.plan(run), *models),
        state_topic=topics.state(config.device),
        birth=birth,
        will=encode(DeviceState(online=False)),
        tls=broker_tls(config),
    )


@dataclass(frozen=True)
class Outside:
    """Whom a device has to do with."""

    link: MqttLink
    account: LinkAccount
    courier: Courier
    reporter: Reporter
    manager: ServiceManager
    updates: DeviceUpdates


class _Device:
    def __init__(self, tools: Tools, outside: Outside) -> None:
        self._credentials: Credentials = tools.credentials
        self._work = tools.work
        self._downlink = tools.downlink
        self._progress = tools.progress
        self._link, self._account, self._courier = outside.link, outside.account, outside.courier
        self._reporter, self._manager, self._updates = outside.reporter, outside.manager, outside.updates
        self._round = RoundRunner(tools, self._on_stored, outside.updates)
        self._delivery = DeliveryRunner(
            tools.credentials.device, tools.store, self._link, self._on_settled, self._account
        )
        self._started, self._last = time.time(), ""
        self._limit = LogLimit(logger, logging.WARNING)

    async def run(self, examined: Examined) -> None:
        beside = [
            asyncio.create_task(self._reporter.run(examined, self._link.publish_birth)),
            asyncio.create_task(self._manager.attend(self._in_a_line, lambda: not self._progress.stuck)),
        ]
        linking = asyncio.create_task(self._link.run(self._on_link))
        leaving = asyncio.create_task(self._updates.leaving())
        self._manager.tell(READY)
        try:
            await self._until_over(linking, leaving)
        finally:
            for task in (linking, leaving, *beside):
                task.cancel()
            await asyncio.gather(linking, leaving, *beside, return_exceptions=True)
            await self._round.close()
            await self._delivery.close()
            await self._updates.close()

    async def _until_over(self, linking: asyncio.Task[None], leaving: asyncio.Task[str]) -> None:
        """Until another release waits (`StartAgainError`), or until cancelled.

        Then no further step begins and the link says goodbye; a second cancellation cuts that short.
        """
        try:
            await asyncio.wait((linking, leaving), return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._round.halt()
            linking.cancel()
            try:
                await asyncio.wait((linking,))
            finally:
                linking.cancel()
            raise
        if leaving.done():
            raise StartAgainError(await leaving)
        await linking

    def status(self) -> Status:
        """What it does now."""
        return Status(
            device=self._credentials.device,
            broker=str(self._link.settings.broker),
            started=self._started,
            said=self._reporter.said,
            runtime=self._work.runtime,
            linked=self._link.up,
            trouble=self._link.why_down,
            doing=self._doing,
            last=self._last,
            written=written(),
        )

    @property
    def _doing(self) -> str:
        paused = self._reporter.health.paused
        return f"rests: {paused}" if paused else self._round.doing

    def _in_a_line(self) -> str:
        return self._doing if self._link.up else f"no link to the broker; {self._doing}"

    def _on_stored(self, stored: Stored) -> None:
        self._delivery.stored(stored)

    def _on_settled(self, parcel: Parcel, receipt: Receipt | None) -> None:
        self._last = f"run {parcel.run} round {parcel.round}: {_outcome(parcel, receipt)}"
        self._round.settled(parcel, receipt)

    def _on_link(self, event: LinkEvent) -> None:
        if isinstance(event, LinkUp):
            self._delivery.link_up()
            self._courier.link_up()
            self._updates.link_changed(True)
        elif isinstance(event, LinkDown):
            self._delivery.link_down()
            self._updates.link_changed(False)
        else:
            self._on_message(event)

    def _on_message(self, message: MessageArrived) -> None:
        self._account.carried(len(message.topic) + len(message.payload))
        self._updates.bytes_came()
        try:
            if topics.is_file(message.topic, self._credentials.device):
                self._courier.piece_arrived(message.topic, message.payload)
                return
            incoming = self._downlink.read(message.topic, message.payload, self._work.max_slice_bytes)
        except ProtocolError as error:
            text = "%s: ignored a message on %.200r: %.300r"
            now = asyncio.get_running_loop().time()
            self._limit.log(now, text, self._credentials.device, message.topic, str(error))
            return
        if isinstance(incoming, RoundPlan):
            remaining = remaining_seconds(incoming.deadline, time.time(), retained=message.retained)
            self._round.plan_arrived(incoming, remaining)
        elif isinstance(incoming, Slice):
            self._round.slice_arrived(incoming)
        elif isinstance(incoming, Need):
            self._delivery.need_arrived(incoming)
        elif isinstance(incoming, Receipt):
            self._delivery.receipt_arrived(incoming)
        elif isinstance(incoming, ReleaseOffer | ModelOffer):
            self._updates.offer_arrived(incoming)
        elif isinstance(incoming, Withdrawn):
            self._updates.offer_arrived(None)


def _outcome(parcel: Parcel, receipt: Receipt | None) -> str:
    if receipt is None:
        return "its answer was lost: the outbox was full or damaged"
    if parcel.selection is None:
        return "the device sat it out, and the server knows"
    return "its update was counted" if receipt.accepted else f"its update was refused: {receipt.reason}"
