"""The real application on a real store, asked by an operator, a viewer or nobody."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from server.api.sources import Sources
from server.app import create_app
from server.bundle import open_bundle
from server.errors import ConflictError, UnknownRunError
from server.model_files import ModelFiles
from server.records import RunRecord
from server.shelf import Offered, Shelf
from server.storage import Store
from server.traffic import Traffic


class Orders:
    """Takes orders to runs as a service does, and trains nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.taken: list[tuple[str, ...]] = []

    async def create(self, run: str, bundle: str, config: dict) -> RunRecord:
        if self._store.run(run) is not None:
            raise ConflictError(f"run {run} is there")
        self.taken.append(("create", run))
        self._store.begin_run(RunRecord(run, bundle, 1.0, config))
        return self._store.run(run)

    async def _order(self, order: str, run: str, *what: str) -> RunRecord:
        record = self._store.run(run)
        if record is None:
            raise UnknownRunError(f"there is no run {run}")
        self.taken.append((order, run, *what))
        return record

    async def start(self, run: str) -> RunRecord:
        return await self._order("start", run)

    async def pause(self, run: str) -> RunRecord:
        return await self._order("pause", run)

    async def resume(self, run: str) -> RunRecord:
        return await self._order("resume", run)

    async def stop(self, run: str) -> RunRecord:
        return await self._order("stop", run)

    async def resync(self, run: str) -> RunRecord:
        return await self._order("resync", run)

    async def clone(self, run: str, new: str) -> RunRecord:
        return replace(await self._order("clone", run, new), run=new)

    async def roll_back(self, run: str, version: int) -> RunRecord:
        return await self._order("roll back", run, str(version))

    async def add_bundle(self, folder: Path) -> str:
        return open_bundle(folder).id


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store(tmp_path / "state")
    yield store
    store.close()


@pytest.fixture
def sources(store: Store, bundle_folder: Path, fleet, tmp_path: Path) -> Sources:
    models = ModelFiles(tmp_path / "state", "run")
    return Sources(
        store=store,
        shelf=Shelf(lambda: [Offered(open_bundle(bundle_folder), models)]),
        traffic=Traffic(),
        broker_connected=lambda: False,
        registry=fleet.registry,
        control=Orders(store),
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
