"""What waits to be done, in batches: of a device at most one state, its newest, and one complete update.

So a device that floods the broker with states neither fills the memory nor keeps the others' updates waiting: however
many it sends, they take one turn and one write to the database. The updates that wait are judged together, so that one
write to the disk serves them all.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field

from server.uplink import Complete
from wire_protocol.device_state import DeviceState

_BATCH_BYTES = 16 * 2**20


@dataclass(frozen=True)
class StateReport:
    """A device's birth message or last will."""

    device: str
    state: DeviceState


@dataclass(frozen=True)
class Waiting:
    """What is to be done together; whoever takes an update out of `updates` need not keep it in memory."""

    states: list[StateReport] = field(default_factory=list)
    updates: deque[Complete] = field(default_factory=deque)

    def __len__(self) -> int:
        return len(self.states) + len(self.updates)


class Inbox:
    """First in, first out; belongs to one event loop."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str | Complete] = asyncio.Queue()
        self._states: dict[str, DeviceState] = {}

    def __len__(self) -> int:
        return self._queue.qsize()

    def put_update(self, update: Complete) -> None:
        """Take an update; `Uplink` hands over one a device and round until it is released."""
        self._queue.put_nowait(update)

    def put_state(self, report: StateReport) -> None:
        """Take a state, in place of one of the same device that still waits."""
        if report.device not in self._states:
            self._queue.put_nowait(report.device)
        self._states[report.device] = report.state

    async def get_batch(self, limit: int = 64, limit_bytes: int = _BATCH_BYTES) -> Waiting:
        """Wait for an item, then take all that waits: up to `limit` items, none more once they hold `limit_bytes`.

        Nothing is lost when cancelled.
        """
        batch = Waiting()
        size = self._take(await self._queue.get(), batch)
        while len(batch) < limit and size < limit_bytes and not self._queue.empty():
            size += self._take(self._queue.get_nowait(), batch)
        return batch

    def _take(self, item: str | Complete, batch: Waiting) -> int:
        """Put an item where it belongs; the bytes it holds."""
        if isinstance(item, Complete):
            batch.updates.append(item)
            return len(item.payload)
        batch.states.append(StateReport(item, self._states.pop(item)))
        return 0
