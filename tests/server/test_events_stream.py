"""Events by HTTP: the real application on a real socket, as an answer that streams is only seen there."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from server.api.sources import Sources
from server.app import create_app
from server.bundle import open_bundle
from server.http_server import HttpServer
from server.model_files import ModelFiles
from server.storage import Store
from server.traffic import Traffic


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "state")
    yield store
    store.close()


@pytest.fixture
async def client(store: Store, bundle_folder: Path, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    models = ModelFiles(tmp_path / "state", "run")
    sources = Sources(store, open_bundle(bundle_folder), models, Traffic(), lambda: True)
    server = HttpServer(create_app(sources), "127.0.0.1", 0)
    await server.start()
    async with asyncio.timeout(20), httpx.AsyncClient(base_url=f"{server.url}/api/v1") as client:
        yield client
        store.events.end_following()
        await server.stop()


async def _events(answer: httpx.Response, count: int) -> list[dict]:
    found, number = [], None
    async for line in answer.aiter_lines():
        name, _, value = line.partition(": ")
        if name == "id":
            number = int(value)
        elif name == "data":
            found.append(json.loads(value))
        elif not line and found and number is not None:
            assert found[-1]["id"] == number
            if len(found) == count:
                break
    return found


async def test_pages(client: httpx.AsyncClient, store: Store) -> None:
    for number in range(5):
        store.events.add("round-closed", f"<b>{number}</b>", run="run", round=number)
    store.events.add("device-online", "came on line", device="a")
    store.events.flush()
    newest = (await client.get("/events", params={"limit": 2})).json()
    assert [(one["id"], one["kind"]) for one in newest] == [(6, "device-online"), (5, "round-closed")]
    assert newest[1]["text"] == "<b>4</b>"
    older = (await client.get("/events", params={"before": 5, "run": "run", "limit": 2})).json()
    assert [one["id"] for one in older] == [4, 3]
    forward = (await client.get("/events", params={"after": 2, "kind": ["round-closed", "alert"]})).json()
    assert [one["id"] for one in forward] == [3, 4, 5]


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "kind=nonsense", "after=-1"])
async def test_what_is_out_of_range_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/events?{query}")).status_code == 422


async def test_a_stream_goes_on_from_the_last_id(client: httpx.AsyncClient, store: Store) -> None:
    for number in range(3):
        store.events.add("alert", str(number))
    store.events.flush()
    async with client.stream("GET", "/events/stream", params={"after": 1}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert [one["text"] for one in await _events(answer, 2)] == ["1", "2"]
    async with client.stream("GET", "/events/stream", params={"after": 0}, headers={"Last-Event-ID": "2"}) as answer:
        store.events.add("alert", "3")
        assert [one["text"] for one in await _events(answer, 2)] == ["2", "3"]


async def test_a_stream_begins_now_and_ends_with_the_service(client: httpx.AsyncClient, store: Store) -> None:
    store.events.add("alert", "old")
    store.events.flush()
    async with client.stream("GET", "/events/stream") as answer:
        lines = answer.aiter_lines()
        assert await anext(lines) == ": events follow"
        store.events.add("alert", "new")
        said = [line async for line in _until_data(lines)]
        assert json.loads(said[-1].removeprefix("data: "))["text"] == "new"
        store.events.end_following()
        assert [line async for line in lines if line.startswith("data")] == []


async def _until_data(lines: AsyncIterator[str]) -> AsyncIterator[str]:
    async for line in lines:
        yield line
        if line.startswith("data"):
            return
