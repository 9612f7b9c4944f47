"""A TCP proxy that makes loopback a poor link: rate and delay for each connection and direction; `cut` drops all."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass

from tests.faults.tcp_relay import TcpRelay

BLOCK_BYTES = 4096
BLOCKS_UNDER_WAY = 64


@dataclass(frozen=True)
class Link:
    """What the link can do: `bytes_per_second`, and `delay` in seconds one way."""

    bytes_per_second: float
    delay: float


class ShapingProxy(TcpRelay):
    """A relay over a `link`."""

    def __init__(self, target: int, link: Link) -> None:
        super().__init__(target)
        self._link = link

    async def relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        """Read at the link's rate and write each block after its delay."""
        del back
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(BLOCKS_UNDER_WAY)
        clock = asyncio.get_running_loop()
        writing = asyncio.create_task(_write_late(queue, sink))
        try:
            while block := await source.read(BLOCK_BYTES):
                await asyncio.sleep(len(block) / self._link.bytes_per_second)
                await queue.put((clock.time() + self._link.delay, block))
        finally:
            writing.cancel()
            with contextlib.suppress(asyncio.CancelledError, OSError):
                await writing


async def _write_late(queue: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
    clock = asyncio.get_running_loop()
    while True:
        due, block = await queue.get()
        await asyncio.sleep(max(0.0, due - clock.time()))
        sink.write(block)
        await sink.drain()
