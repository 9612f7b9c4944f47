"""What waits to be done, one item at a time: of a device at most one state, its newest, and one complete update.

So a device that floods the broker with states neither fills the memory nor keeps the others' updates waiting: however
many it sends, they take one turn and one write to the database.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from server.uplink import Complete
from wire_protocol.messages import DeviceState


@dataclass(frozen=True)
class StateReport:
    """A device's birth message or last will."""

    device: str
    state: DeviceState


class Inbox:
    """First in, first out; belongs to one event loop."""

    def __init__(self) -> None:
        self._queue: asyncio.Queue[str | Complete] = asyncio.Queue()
        self._states: dict[str, DeviceState] = {}

    def put_update(self, update: Complete) -> None:
        """Take an update; `Uplink` hands over one a device until it is released."""
        self._queue.put_nowait(update)

    def put_state(self, report: StateReport) -> None:
        """Take a state, in place of one of the same device that still waits."""
        if report.device not in self._states:
            self._queue.put_nowait(report.device)
        self._states[report.device] = report.state

    async def get_batch(self, limit: int) -> list[StateReport | Complete]:
        """All items that wait, at least one and at most `limit`; nothing is lost when cancelled."""
        items = [await self._queue.get()]
        while len(items) < limit and not self._queue.empty():
            items.append(self._queue.get_nowait())
        return [item if isinstance(item, Complete) else StateReport(item, self._states.pop(item)) for item in items]
