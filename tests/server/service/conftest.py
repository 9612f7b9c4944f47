"""A service on the small model, in this process, and ways to change what it is asked to do."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from server.clocks import SYSTEM_CLOCKS, Clocks
from server.config import RunConfig, ServiceSettings
from server.records import RoundRecord
from server.service import Service
from tests.patience import PATIENCE
from wire_protocol.examples import Examples

CHUNK_BYTES = 50


@pytest.fixture
def settings(broker: Any, fleet: Any, bundle_folder: Path, tmp_path: Path) -> ServiceSettings:
    test = Examples(np.eye(3, dtype=np.float32), np.array([0, 1, 0]))
    run = RunConfig(
        rounds=1,
        keep=1.0,
        resync_every=2,
        local_steps=5,
        batch_size=8,
        rate_decay="none",
        selection="fisher",
        precision="float16",
        downlink="float16",
    )
    return ServiceSettings(
        bundle=bundle_folder,
        state=tmp_path / "state",
        broker=broker.url,
        fleet=fleet.folder,
        port=0,
        test=test,
        run=run,
        chunk_bytes=CHUNK_BYTES,
    )


@pytest.fixture
def running(settings: ServiceSettings) -> Callable[..., ServiceSettings]:
    """The settings with another run."""
    return lambda **changes: replace(settings, run=replace(settings.run, **changes))


@asynccontextmanager
async def _serving(
    settings: ServiceSettings, clocks: Clocks
) -> AsyncIterator[tuple[Service, asyncio.Task[None], list[RoundRecord]]]:
    records: list[RoundRecord] = []
    async with (
        asyncio.timeout(PATIENCE),
        Service(settings, lambda _, record: records.append(record), clocks) as service,
    ):
        run = asyncio.create_task(service.run())
        try:
            yield service, run, records
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


@pytest.fixture
def serving() -> Callable[..., AbstractAsyncContextManager[Any]]:
    return lambda settings, clocks=SYSTEM_CLOCKS: _serving(settings, clocks)


@pytest.fixture
def scene(running: Callable, serving: Callable, connected: Callable, keeping: Callable) -> SimpleNamespace:
    """All that a round takes."""
    return SimpleNamespace(running=running, serving=serving, connected=connected, keeping=keeping)
