"""Who may send now: a budget of bytes shared first come, first served. Sans-I/O; `clock` never goes back.

Invariants: what is granted fits the budget, but for a single grant larger than all of it; with what was handed over it
exceeds the budget by one payload at most. A device has one place: it waits, or it holds a grant. While others wait, a
grant of which nothing was used for `IDLE_SECONDS`, or that is used more slowly than `SLOWEST` bytes a second, goes back
to the queue's end; those who let grants pass come after those who did not, so that they waste their own time only. Who
waits without saying so again for `SILENT_SECONDS` leaves the queue. Memory grows with the devices, not with what they
do.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass

from wire_protocol.errors import require

IDLE_SECONDS = 20.0
SLOWEST = 4096
SILENT_SECONDS = 150.0
"""More than twice the longest wait of a device before it announces again, 61 s."""
_MOST_MISSES = 8


@dataclass
class _Lease:
    began: float
    used: float
    received: int = 0

    def lapsed(self, now: float) -> bool:
        patience = self.began + IDLE_SECONDS + self.received / SLOWEST
        return now >= min(patience, self.used + IDLE_SECONDS)


@dataclass
class _Place:
    cost: int
    heard: float
    ticket: int = 0
    lease: _Lease | None = None


class Admission:
    """Places of all devices; `budget_bytes` bounds what they may have under way together."""

    def __init__(self, budget_bytes: int, clock: Callable[[], float]) -> None:
        require(budget_bytes >= 1, "budget_bytes", budget_bytes, "at least 1")
        self._budget = budget_bytes
        self._clock = clock
        self._places: dict[str, _Place] = {}
        self._granted: dict[str, _Lease] = {}
        self._queue: list[tuple[int, int, str]] = []
        self._tickets = 0
        self._misses: dict[str, int] = {}
        self._granted_bytes = 0
        self._handed_bytes = 0

    @property
    def outstanding(self) -> int:
        """Bytes granted or handed over, and not yet released."""
        return self._granted_bytes + self._handed_bytes

    def holds(self, device: str) -> bool:
        """Whether the device has a grant."""
        return device in self._granted

    def enter(self, device: str, cost: int) -> None:
        """The device announced a payload of `cost` bytes; one that waits or may send already keeps its place."""
        place = self._places.get(device)
        if place is None:
            place = self._places[device] = _Place(cost, self._clock())
            self._queue_up(device, place)
        place.heard = self._clock()
        if place.lease is None:
            place.cost = cost

    def admit(self) -> list[str]:
        """Give grants to those who are first, while they fit; who got one."""
        now = self._clock()
        granted = []
        while (device := self._first(now)) is not None and self._fits(self._places[device].cost):
            heapq.heappop(self._queue)
            place = self._places[device]
            place.lease = self._granted[device] = _Lease(now, now)
            self._granted_bytes += place.cost
            granted.append(device)
        return granted

    def take_back_lapsed(self) -> list[str]:
        """Take grants back that are not used while others wait; whose they were."""
        now = self._clock()
        if self._first(now) is None:
            return []
        lapsed = [device for device, lease in self._granted.items() if lease.lapsed(now)]
        for device in lapsed:
            self.take_back(device)
        return lapsed

    def take_back(self, device: str) -> None:
        """Send a device that holds a grant to the queue's end; it had its turn."""
        if not self._lose_grant(device):
            return
        self._misses[device] = min(self._misses.get(device, 0) + 1, _MOST_MISSES)
        self._queue_up(device, self._places[device])

    def used(self, device: str, size: int) -> None:
        """So many new bytes came from a device."""
        lease = self._granted.get(device)
        if lease is not None:
            lease.used = self._clock()
            lease.received += size

    def may_finish(self, device: str) -> bool:
        """Whether the device's payload may become whole: by a grant, or late, where all others stay in the budget."""
        return self.holds(device) or self.outstanding <= self._budget

    def hand_over(self, device: str, cost: int) -> None:
        """The device's payload is whole; it counts against the budget until `release`."""
        self._lose_grant(device)
        self._places.pop(device, None)
        self._misses.pop(device, None)
        self._handed_bytes += cost

    def release(self, cost: int) -> None:
        """A payload handed over is done with."""
        self._handed_bytes -= cost

    def leave(self, device: str) -> None:
        """The device gives its place up; what was handed over stays until it is released."""
        self._lose_grant(device)
        self._places.pop(device, None)

    def _fits(self, cost: int) -> bool:
        return not self.outstanding or self.outstanding + cost <= self._budget

    def _lose_grant(self, device: str) -> bool:
        if self._granted.pop(device, None) is None:
            return False
        place = self._places[device]
        place.lease = None
        self._granted_bytes -= place.cost
        return True

    def _queue_up(self, device: str, place: _Place) -> None:
        if len(self._queue) > 2 * len(self._places) + 16:
            self._queue = [entry for entry in self._queue if self._stands(entry)]
            heapq.heapify(self._queue)
        self._tickets += 1
        place.ticket = self._tickets
        heapq.heappush(self._queue, (self._misses.get(device, 0), place.ticket, device))

    def _stands(self, entry: tuple[int, int, str]) -> bool:
        _, ticket, device = entry
        place = self._places.get(device)
        return place is not None and place.lease is None and place.ticket == ticket

    def _first(self, now: float) -> str | None:
        while self._queue:
            device = self._queue[0][2]
            if self._stands(self._queue[0]):
                if now - self._places[device].heard <= SILENT_SECONDS:
                    return device
                del self._places[device]
            heapq.heappop(self._queue)
        return None
