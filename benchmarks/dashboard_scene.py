"""What the dashboard is tried on: a real broker, a real service and real devices that train while someone looks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from devices.emulation.broker import embedded_broker
from devices.emulation.device_folders import Surroundings, create_emulated_fleet, write_device_folder
from devices.emulation.emulate import fleet_process, prepare, service_settings
from devices.emulation.settings import EmulationSettings
from server.service import Service

_SEED = 1


@dataclass(frozen=True)
class Scene:
    """A service that trains, the folder of its fleet, and tokens for its pages."""

    service: Service
    fleet: Path
    operator: str
    viewer: str

    @property
    def url(self) -> str:
        """The dashboard's address."""
        return self.service.http_url

    @property
    def run(self) -> str:
        """The run that trains."""
        return self.service.store.runs()[-1].run


@asynccontextmanager
async def dashboard_scene(folder: Path, settings: EmulationSettings, **changes: object) -> AsyncIterator[Scene]:
    """A service and devices on this machine, all below `folder`; `changes` are of the run (`RunConfig`)."""
    prepared = prepare(settings)
    async with AsyncExitStack() as stack:
        broker = await stack.enter_async_context(embedded_broker(folder))
        fleet = create_emulated_fleet(folder / "fleet", len(prepared.shares), datetime.now(UTC))
        asked = service_settings(prepared, fleet.path, folder / "state", broker)
        asked = replace(asked, run=replace(asked.run, give_up=False, **changes))
        service = await stack.enter_async_context(Service(asked))
        tokens = service.store.tokens
        scene = Scene(service, fleet.path, tokens.create("kim", "operator"), tokens.create("screen", "viewer"))
        surroundings = Surroundings(broker, service.http_url, prepared.settings.runtime, None)
        for number, examples in enumerate(prepared.shares, start=1):
            write_device_folder(fleet.devices, number, examples, surroundings, _SEED)
        await stack.enter_async_context(fleet_process(fleet.devices, prepared.settings, folder / "devices.log"))
        training = asyncio.create_task(service.run())
        stack.push_async_callback(asyncio.gather, training, return_exceptions=True)
        stack.callback(training.cancel)
        yield scene
