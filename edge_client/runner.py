"""A device at work: carries out what the state machine of its round asks for.

Events and commands run on the event loop, training and downloads in an executor, one after another. Nothing that a
message, a download or a training can do ends the device; only cancellation does.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from threading import Event as Flag
from typing import Any

from edge_client import round_events as ev
from edge_client.config import DeviceConfig
from edge_client.device_work import DeviceWork
from edge_client.downlink import Downlink
from edge_client.errors import BundleError, ConfigError, LinkError, SliceError
from edge_client.mqtt_link import LinkDown, LinkEvent, LinkSettings, LinkUp, MessageArrived, MqttLink
from edge_client.round_phases import Busy, Idle, Phase, due
from edge_client.round_state import advance
from edge_client.training.choose import OpenRuntime, require_installed
from edge_client.training.choose import open_runtime as open_installed_runtime
from wire_protocol import topics
from wire_protocol.chunking import chunk, manifest_of
from wire_protocol.errors import FisherfleetError, ProtocolError
from wire_protocol.examples import Examples, ExamplesError, load_examples
from wire_protocol.messages import DeclineCause, DeviceState, Need, Receipt, RoundPlan, Slice, encode

logger = logging.getLogger(__name__)

Make = Callable[..., ev.Event]


async def run_device(
    config: DeviceConfig, *, open_runtime: OpenRuntime = open_installed_runtime, executor: Executor | None = None
) -> None:
    """Take part in every round until cancelled, then leave cleanly.

    Training and downloads run in `executor` (None: the event loop's own). Raises `ConfigError`, `ExamplesError` or
    `TrainingError` at once where the device could never take part; afterwards it only logs.
    """
    require_installed(config.runtime)
    examples = load_examples(config.data, labelled=False)
    tls = _tls_context(config)
    work = DeviceWork(config, examples, open_runtime, tls)
    link = MqttLink(_link_settings(config, examples, tls if config.broker.tls else None))
    await _Device(config.device, work, link, executor).run()


def client_version() -> str:
    """Name and version of this client, as the server shows them."""
    try:
        return f"fisherfleet-edge/{version('fisherfleet')}"
    except PackageNotFoundError:
        return "fisherfleet-edge"


def _tls_context(config: DeviceConfig) -> ssl.SSLContext | None:
    if config.ca_file is None and not config.broker.tls:
        return None
    try:
        return ssl.create_default_context(cafile=config.ca_file)
    except OSError as error:
        raise ConfigError(f"ca_file {config.ca_file} holds no certificates that can be read: {error}") from error


def _link_settings(config: DeviceConfig, examples: Examples, tls: ssl.SSLContext | None) -> LinkSettings:
    here = DeviceState(online=True, examples=len(examples), runtime=config.runtime, client=client_version())
    return LinkSettings(
        broker=config.broker,
        client_id=config.device,
        filters=(topics.downlink_filter(config.device), topics.plan(config.run or "+")),
        state_topic=topics.state(config.device),
        birth=encode(here),
        will=encode(DeviceState(online=False)),
        tls=tls,
    )


class _Device:
    def __init__(self, name: str, work: DeviceWork, link: MqttLink, executor: Executor | None) -> None:
        self._name = name
        self._work = work
        self._link = link
        self._executor = executor
        self._downlink = Downlink(name)
        self._phase: Phase = Idle()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._stop_job = Flag()
        self._job_lock = asyncio.Lock()
        self._send_lock = asyncio.Lock()

    async def run(self) -> None:
        try:
            await self._link.run(self._on_link)
        finally:
            self._stop_job.set()
            if self._timer is not None:
                self._timer.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _on_link(self, event: LinkEvent) -> None:
        if isinstance(event, LinkUp):
            self._post(ev.Connected)
        elif isinstance(event, LinkDown):
            self._post(ev.Disconnected)
        else:
            self._on_message(event)

    def _on_message(self, message: MessageArrived) -> None:
        try:
            incoming = self._downlink.read(message.topic, message.payload, self._work.max_slice_bytes)
        except ProtocolError as error:
            logger.warning("%s: dropped a message on %.200r: %.300r", self._name, message.topic, str(error))
            return
        if isinstance(incoming, RoundPlan):
            self._post(partial(ev.PlanArrived, plan=incoming, remaining=incoming.deadline - time.time()))
        elif isinstance(incoming, Slice):
            self._post(partial(ev.SliceArrived, content=incoming))
        elif isinstance(incoming, Need):
            self._post(partial(ev.NeedArrived, need=incoming))
        elif isinstance(incoming, Receipt):
            self._post(partial(ev.ReceiptArrived, receipt=incoming))

    def _post(self, make: Make) -> None:
        clock = asyncio.get_running_loop()
        self._phase, commands = advance(self._phase, make(now=clock.time(), jitter=random.random()))
        for command in commands:
            self._carry_out(command)
        if self._timer is not None:
            self._timer.cancel()
        when = due(self._phase)
        self._timer = None if when is None else clock.call_at(when, self._post, ev.Tick)

    def _carry_out(self, command: ev.Command) -> None:
        if isinstance(command, ev.Begin | ev.End):
            self._report(command)
            if isinstance(command, ev.End) and command.accepted:
                self._work.accepted(command.plan)
        elif isinstance(command, ev.ExpectSlice):
            early = self._downlink.slice_of(command.plan.run, command.plan.round)
            if early is not None:
                asyncio.get_running_loop().call_soon(self._post, partial(ev.SliceArrived, content=early))
        elif isinstance(command, ev.Fetch):
            self._start_job(partial(self._fetch, command))
        elif isinstance(command, ev.Train):
            self._start_job(partial(self._train, command))
        elif isinstance(command, ev.Send):
            self._spawn(self._send(command))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _start_job(self, job: Callable[[Flag], Make]) -> None:
        self._stop_job.set()
        self._stop_job = Flag()
        self._spawn(self._run_job(job, self._stop_job))

    async def _run_job(self, job: Callable[[Flag], Make], stop: Flag) -> None:
        async with self._job_lock:
            if not stop.is_set():
                self._post(await asyncio.get_running_loop().run_in_executor(self._executor, job, stop))

    def _fetch(self, command: ev.Fetch, stop: Flag) -> Make:
        mine: dict[str, Any] = {"run": command.plan.run, "round": command.plan.round}
        try:
            self._work.fetch(command, stop)
        except BundleError as error:
            logger.warning("%s: fetching failed: %s", self._where(command.plan), error)
            return partial(ev.FetchFailed, reason=str(error), **mine)
        except Exception as error:
            return self._failed(command.plan, error)
        return partial(ev.ModelFetched, **mine)

    def _train(self, command: ev.Train, stop: Flag) -> Make:
        plan = command.plan
        mine: dict[str, Any] = {"run": plan.run, "round": plan.round}
        try:
            trained = self._work.train(command, stop)
        except SliceError as error:
            logger.warning("%s: %s", self._where(plan), error)
            return partial(ev.SliceRefused, **mine)
        except Exception as error:
            return self._failed(plan, error)
        widths, sizes = trained.selection.sub_model.widths, self._work.group_sizes
        kept = ", ".join(f"{group} {count}/{sizes[group]}" for group, count in widths.items())
        payload, update = encode(trained.update), trained.update
        logger.info("%s: neurons kept: %s", self._where(plan), kept or "all, as none can be cut")
        logger.info(
            "%s: loss %.4f on %d examples, update of %d bytes",
            *(self._where(plan), update.loss, update.trained, len(payload)),
        )
        return partial(ev.Trained, payload=payload, selection=trained.selection, **mine)

    def _failed(self, plan: RoundPlan, error: Exception) -> Make:
        cause: DeclineCause = "internal"
        if isinstance(error, FisherfleetError):
            cause = "data" if isinstance(error, ExamplesError) else "training"
            logger.warning("%s: there is no update: %s", self._where(plan), error)
        else:
            logger.error("%s: there is no update: unexpected error", self._where(plan), exc_info=error)
        return partial(ev.TrainingFailed, run=plan.run, round=plan.round, cause=cause)

    async def _send(self, command: ev.Send) -> None:
        plan = command.plan
        async with self._send_lock:
            try:
                sent = await self._publish_pieces(command)
                logger.info("%s: sent %d bytes", self._where(plan), sent)
            except LinkError as error:
                logger.warning("%s: sending was cut short: %s", self._where(plan), error)
            except Exception:
                logger.exception("%s: sending failed", self._where(plan))
        self._post(partial(ev.Transmitted, run=plan.run, round=plan.round))

    async def _publish_pieces(self, command: ev.Send) -> int:
        plan, manifest = command.plan, manifest_of(command.payload)
        pieces: list[int | None] = [None] if command.announce else []
        sent = 0
        for index in [*pieces, *command.chunks]:
            if not self._is_current(plan):
                break
            topic = topics.uplink(topics.Part(self._name, plan.run, plan.round, index))
            content = encode(manifest) if index is None else chunk(command.payload, manifest, index)
            await self._link.publish(topic, content)
            sent += len(content)
        return sent

    def _is_current(self, plan: RoundPlan) -> bool:
        phase = self._phase
        return isinstance(phase, Busy) and (phase.task.plan.run, phase.task.plan.round) == (plan.run, plan.round)

    def _report(self, command: ev.Begin | ev.End) -> None:
        plan = command.plan
        if isinstance(command, ev.Begin):
            kind = "neurons are chosen afresh" if plan.resync else f"neurons of round {plan.resync_round}"
            logger.info(
                "%s: plan: %d steps of %d examples at rate %g, keep %g, %s",
                *(self._where(plan), plan.local_steps, plan.batch_size, plan.learning_rate, plan.keep, kind),
            )
        elif command.accepted:
            logger.info("%s: counted by the server", self._where(plan))
        else:
            logger.warning("%s: not counted: %.300r", self._where(plan), command.reason)

    def _where(self, plan: RoundPlan) -> str:
        return f"{self._name}: run {plan.run} round {plan.round}"
