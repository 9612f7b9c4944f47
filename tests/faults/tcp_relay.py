"""What both proxies share: a listener on loopback in a thread with a loop of its own, and pairs of connections."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any

STOP_SECONDS = 10.0


class TcpRelay(ABC):
    """Listens on 127.0.0.1:`port` while entered; each connection is joined to one to 127.0.0.1:`target`."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self.accepts = True
        self.port = 0

    @abstractmethod
    async def relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        """Pass on one direction until `source` ends; `back` leads to where it comes from."""

    def __enter__(self) -> Any:
        self._thread.start()
        self._run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STOP_SECONDS)
        self._loop.close()

    def cut(self, seconds: float) -> None:
        """Drop all connections now and let none through for a while; returns at once."""
        self._loop.call_soon_threadsafe(self._cut, seconds)

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(STOP_SECONDS)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        assert self._server is not None
        self._server.close()
        await _end(self._connections)

    def _cut(self, seconds: float) -> None:
        self.accepts = False
        for connection in self._connections:
            connection.cancel()
        self._loop.call_later(seconds, setattr, self, "accepts", True)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        assert connection is not None
        self._connections.add(connection)
        try:
            if self.accepts:
                await self._join(reader, writer)
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            self._connections.discard(connection)
            writer.transport.abort()

    async def _join(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self._target)
        both = {
            asyncio.create_task(self.relay(reader, there_writer, writer)),
            asyncio.create_task(self.relay(there_reader, writer, there_writer)),
        }
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            there_writer.transport.abort()
            await _end(both)


async def _end(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.gather(*tasks, return_exceptions=True)
