"""One emulated fleet from data to trained model: a real broker, the real server, devices in a process without torch."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from numpy.typing import NDArray

from devices.emulation.broker import embedded_broker
from devices.emulation.child_process import Process, log_tail, start_child, stop_child
from devices.emulation.conclusion import Finished
from devices.emulation.datasets import Dataset
from devices.emulation.device_folders import Surroundings, create_emulated_fleet, write_device_folder
from devices.emulation.preparation import export_model, load_data
from devices.emulation.results import Outcome, build_report, write_results
from devices.emulation.settings import EmulationSettings
from devices.emulation.splits import dirichlet_split, natural_split
from devices.errors import FleetError
from server.config import ServiceSettings
from server.records import RoundRecord
from server.service import Service
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.bundle_manifest import BundleManifest
from wire_protocol.examples import Examples

RUN = "emulation"
LOGS_FOLDER = "logs"
ROUND_SECONDS = 120.0

OnStatus = Callable[[str], None]
OnRound = Callable[[RoundRecord], None]


@dataclass(frozen=True)
class Prepared:
    """A run ready to start: `settings` with the real number of devices, the data of each, and the bundle."""

    settings: EmulationSettings
    dataset: Dataset
    shares: list[Examples]
    bundle: Path
    manifest: BundleManifest


def prepare(settings: EmulationSettings) -> Prepared:
    """Load and split the data, build and export the model; raises `FisherfleetError` on anything unusable."""
    dataset = load_data(settings)
    if dataset.owners is None:
        split = dirichlet_split(dataset.train.y, settings.devices, settings.alpha, settings.seed)
    else:
        split = natural_split(dataset.owners)
    settings = replace(settings, devices=len(split))
    rungs = (settings.keep,) if settings.runtime == "ort-training" else ()
    bundle, manifest = export_model(settings, dataset, rungs)
    return Prepared(settings, dataset, [dataset.train.take(indices) for indices in split], bundle, manifest)


async def emulate(prepared: Prepared, on_status: OnStatus, on_round: OnRound) -> Finished:
    """Train the fleet; cancelled while it trains, it stops everything, saves what was trained so far and returns."""
    with TemporaryDirectory(prefix="fisherfleet-") as workplace:
        trained = await _train(prepared, Path(workplace), on_status, on_round)
    report = build_report(prepared.settings, trained.outcome)
    paths = write_results(prepared.settings.out, report, prepared.bundle, trained.parameters)
    return Finished(report, paths, trained.interrupted)


@dataclass(frozen=True)
class _Trained:
    outcome: Outcome
    parameters: dict[str, NDArray[Any]]
    interrupted: bool


async def _train(prepared: Prepared, workplace: Path, on_status: OnStatus, on_round: OnRound) -> _Trained:
    settings, started = prepared.settings, time.monotonic()
    logs = settings.out / LOGS_FOLDER
    async with AsyncExitStack() as stack:
        on_status("starting the broker")
        broker = await stack.enter_async_context(embedded_broker(logs))
        fleet = create_emulated_fleet(workplace / "fleet", len(prepared.shares), datetime.now(UTC))
        service = Service(
            service_settings(prepared, fleet.path, workplace / "server", broker), lambda _, record: on_round(record)
        )
        await stack.enter_async_context(service)
        on_status("starting the devices")
        surroundings = Surroundings(broker, service.http_url, settings.runtime, RUN)
        for number, examples in enumerate(prepared.shares, start=1):
            write_device_folder(fleet.devices, number, examples, surroundings, settings.seed)
        log = logs / "devices.log"
        process = await stack.enter_async_context(fleet_process(fleet.devices, settings, log))
        on_status("training")
        interrupted = await _run_until_stopped(service, process, log)
        outcome = Outcome(
            rounds=service.store.rounds(RUN),
            devices=service.store.devices(),
            group_sizes=prepared.manifest.layout.group_sizes,
            seconds=time.monotonic() - started,
        )
        return _Trained(outcome, service.latest_parameters(), interrupted)


async def _run_until_stopped(service: Service, fleet: Process, log: Path) -> bool:
    """Wait for the last round; True when cancelled before it. Raises `FleetError` when the devices' process dies."""
    run, death = asyncio.ensure_future(service.run()), asyncio.ensure_future(fleet.wait())
    try:
        await asyncio.wait((run, death), return_when=asyncio.FIRST_COMPLETED)
        if not run.done():
            raise FleetError(f"the devices' process ended with status {fleet.returncode}: {log_tail(log)}")
        await run
    except asyncio.CancelledError:
        return True
    finally:
        for task in (run, death):
            task.cancel()
        await asyncio.gather(run, death, return_exceptions=True)
    return False


@asynccontextmanager
async def fleet_process(folder: Path, settings: EmulationSettings, log: Path) -> AsyncIterator[Process]:
    """All devices below `folder` in a process of their own, which writes `log`."""
    log.write_bytes(b"")
    parallel = str(min(settings.devices, os.cpu_count() or 1))
    process = await start_child([sys.executable, "-m", "devices.emulation.fleet", str(folder), parallel], log)
    try:
        yield process
    finally:
        await stop_child(process)


def service_settings(prepared: Prepared, fleet: Path, state: Path, broker: BrokerUrl) -> ServiceSettings:
    """A service that trains the prepared model, on a free port."""
    settings = prepared.settings
    run = settings.run_config(
        RUN,
        min_devices=settings.devices,
        round_seconds=ROUND_SECONDS,
        give_up=True,
        difference=settings.difference,
    )
    return ServiceSettings(
        bundle=prepared.bundle, state=state, broker=broker, fleet=fleet, port=0, test=prepared.dataset.test, run=run
    )
