"""Commands against the real application on a real socket, as an operator types them."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from devices.command_line import main
from server.api.sources import Sources
from server.app import create_app
from server.console.link import SERVER_VARIABLE, TOKEN_VARIABLE
from server.http_server import HttpServer
from tests.server.api.conftest import bundle, files, models, operator, sources, store

__all__ = ["bundle", "files", "models", "operator", "sources", "store"]

Typed = Callable[..., Awaitable[tuple[int, str, str]]]


@pytest.fixture
async def typed(sources: Sources, operator: dict[str, str], monkeypatch, capsys) -> AsyncIterator[Typed]:
    """Types a command; its exit status and what it printed on the two streams."""
    server = HttpServer(create_app(sources), "127.0.0.1", 0)
    await server.start()
    monkeypatch.setenv(SERVER_VARIABLE, server.url)
    monkeypatch.setenv(TOKEN_VARIABLE, operator["Authorization"].removeprefix("Bearer "))

    async def typed(*words: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, words)
        return (status, *capsys.readouterr())

    yield typed
    await server.stop()


@pytest.fixture
def read(typed: Typed) -> Callable[..., Awaitable[object]]:
    """The JSON that a command prints."""

    async def read(*words: str) -> object:
        status, text, error = await typed(*words, "--json")
        assert (status, error) == (0, "")
        return json.loads(text)

    return read
