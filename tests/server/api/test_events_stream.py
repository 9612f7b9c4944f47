"""Events by HTTP: the real application on a real socket, as an answer that streams is only seen there."""

import asyncio
import json
from collections.abc import AsyncIterator

import httpx
import pytest

from server.api.sources import Sources
from server.app import create_app
from server.http_server import HttpServer
from server.storage import Store
from tests.patience import PATIENCE


@pytest.fixture
async def client(sources: Sources, store: Store, operator: dict[str, str]) -> AsyncIterator[httpx.AsyncClient]:
    server = HttpServer(create_app(sources), "127.0.0.1", 0)
    await server.start()
    async with (
        asyncio.timeout(PATIENCE),
        httpx.AsyncClient(base_url=f"{server.url}/api/v1", headers=operator) as client,
    ):
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
    store.events.add("device-online", "came online", device="a")
    store.events.flush()
    newest = (await client.get("/events", params={"limit": 2})).json()
    assert [(one["id"], one["kind"]) for one in newest["items"]] == [(6, "device-online"), (5, "round-closed")]
    assert newest["items"][1]["text"] == "<b>4</b>"
    older = (await client.get("/events", params={"after": newest["next"], "run": "run", "limit": 2})).json()
    assert [one["id"] for one in older["items"]] == [4, 3]
    last = (await client.get("/events", params={"after": older["next"], "kind": ["round-closed", "alert"]})).json()
    assert ([one["id"] for one in last["items"]], last["next"]) == ([2, 1], None)


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "kind=nonsense", "after=-1", "run=%3Cb%3E"])
async def test_what_is_out_of_range_is_refused(client: httpx.AsyncClient, query: str) -> None:
    assert (await client.get(f"/events?{query}")).status_code == 422


async def test_a_stream_goes_on_from_the_last_id(client: httpx.AsyncClient, store: Store) -> None:
    for number in range(3):
        store.events.add("alert", str(number))
    store.events.flush()
    async with client.stream("GET", "/events/stream", params={"since": 1}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert [one["text"] for one in await _events(answer, 2)] == ["1", "2"]
    async with client.stream("GET", "/events/stream", params={"since": 0}, headers={"Last-Event-ID": "2"}) as answer:
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
