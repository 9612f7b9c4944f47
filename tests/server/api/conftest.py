"""The real application on a real store, asked by an operator, a viewer or nobody."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from server.api.sources import Sources
from server.app import create_app
from server.bundle import Bundle, open_bundle
from server.fleet.fleet_folder import FleetFolder
from server.model_files import ModelFiles
from server.run_files import RunFiles
from server.run_host import Premises
from server.runs import Runs
from server.shelf import Offered, Shelf
from server.storage import Store


@pytest.fixture
def store(premises: Premises) -> Store:
    return premises.store


@pytest.fixture
def models(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path / "state", "run")


@pytest.fixture
def bundle(bundle_folder: Path, files: RunFiles) -> Bundle:
    """A bundle that was added."""
    files.add_bundle(bundle_folder)
    return open_bundle(bundle_folder)


@pytest.fixture
def files(tmp_path: Path) -> RunFiles:
    return RunFiles(tmp_path / "state")


@pytest.fixture
def sources(premises: Premises, bundle: Bundle, models: ModelFiles, files: RunFiles, runs: Runs, fleet) -> Sources:
    return Sources(
        store=premises.store,
        shelf=Shelf(
            lambda: [Offered(bundle, models)], premises.store.releases.archives, premises.store.promotions.files
        ),
        traffic=premises.traffic,
        broker_connected=lambda: False,
        control=runs,
        registry=premises.registry,
        files=files,
        fleet=FleetFolder(fleet.folder),
        broker="mqtt://127.0.0.1:1883",
        steady=lambda: 0.0,
        metrics=premises.metrics.registry,
    )


@pytest.fixture
def operator(store: Store) -> dict[str, str]:
    return {"Authorization": f"Bearer {store.tokens.create('operator', 'operator')}"}


@pytest.fixture
def viewer(store: Store) -> dict[str, str]:
    return {"Authorization": f"Bearer {store.tokens.create('viewer', 'viewer')}"}


@asynccontextmanager
async def _client(sources: Sources, headers: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(sources), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://server", headers=headers) as client:
        yield client


@pytest.fixture
def asking(sources: Sources) -> Callable[[dict[str, str]], AbstractAsyncContextManager[httpx.AsyncClient]]:
    return lambda headers: _client(sources, headers)


@pytest.fixture
async def nobody(sources: Sources) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(sources, {}) as client:
        yield client


@pytest.fixture
async def client(sources: Sources, operator: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    async with _client(sources, operator) as client:
        yield client
