"""Who is owed which pieces of which file over MQTT, sans-I/O; `clock` gives seconds and never goes back.

Invariants: a device has one errand, its last `Want`; devices take turns, a piece at a time; memory grows with the
devices that wait and not with what they ask for. A device that asked for more bytes than its allowance is not heard
until that has passed: it asks again.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from server.allowance import Allowance
from wire_protocol.messages import Want

BYTES_A_SECOND, BYTES_AT_ONCE = 4 * 2**20, 64 * 2**20
_UNIT = 1024


@dataclass(frozen=True)
class Piece:
    """What to send next: a chunk of the payload `want` names, or, where `chunk` is None, the file's manifest."""

    device: str
    want: Want
    chunk: int | None


@dataclass
class _Errand:
    want: Want
    chunks: deque[int]


class Courier:
    """The errands of all devices."""

    def __init__(self, chunk_bytes: int, clock: Callable[[], float]) -> None:
        self._chunk_bytes = chunk_bytes
        self._allowance = Allowance(BYTES_A_SECOND / _UNIT, BYTES_AT_ONCE // _UNIT, clock)
        self._errands: dict[str, _Errand] = {}

    def want(self, device: str, want: Want) -> bool:
        """Take a request in place of the device's last one; whether it may have so much now."""
        if not self.may_have(device, len(want.missing) * self._chunk_bytes):
            return False
        self._errands[device] = _Errand(want, deque(want.missing))
        return True

    def may_have(self, device: str, size: int) -> bool:
        """Whether the device may be given so many bytes; if so, they count as given."""
        return self._allowance.take(device, -(-size // _UNIT) + 1)

    def take(self) -> Piece | None:
        """The next piece, of the device whose turn it is."""
        device = next(iter(self._errands), None)
        if device is None:
            return None
        errand = self._errands.pop(device)
        if not errand.want.missing:
            return Piece(device, errand.want, None)
        chunk = errand.chunks.popleft()
        if errand.chunks:
            self._errands[device] = errand
        return Piece(device, errand.want, chunk)

    def drop(self, device: str, want: Want) -> None:
        """The rest of this request is of no use."""
        errand = self._errands.get(device)
        if errand is not None and errand.want is want:
            del self._errands[device]
