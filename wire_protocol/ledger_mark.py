"""How far a device's privacy ledger has come: what the device remembers beside it, and the server of each device."""

from __future__ import annotations

import msgspec

from wire_protocol.errors import require

MOST_ENTRIES = 2**53
HEAD_BYTES = 32


class LedgerMark(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """That a ledger has the entry `count`, 0 (none yet) to 2^53, with the checksum `head` (32 bytes).

    A checksum is over all entries before it too: two ledgers that have a mark in common had all that is before it.
    """

    count: int
    head: bytes

    def __post_init__(self) -> None:
        require(0 <= self.count <= MOST_ENTRIES, "count", self.count, "0 to 2^53")
        require(len(self.head) == HEAD_BYTES, "head", self.head, f"{HEAD_BYTES} bytes")
