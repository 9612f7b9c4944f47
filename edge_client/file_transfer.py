"""One file on its way over MQTT: what to ask for and when, what of the answers counts. Sans-I/O; clocks are arguments.

Invariants: chunks are asked for a window at a time, the next when all of it are here; a window that came quickly makes
the next twice as large, up to `MAX_WANTED`, one that came slowly or not at all makes it half. Who waits in vain asks
again after twice the longest gap seen between chunks, plus full jitter (Brooker, 2015). Nothing that comes is believed
before the whole is opened: manifests are hints, and one that differs counts only where two questions found no answer,
as several servers may hear them.
"""

from __future__ import annotations

from collections.abc import Container

from wire_protocol.backoff import full_jitter
from wire_protocol.chunking import ChunkSet
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import MAX_WANTED, Manifest, Want

FIRST_WINDOW = 8
QUICK_SECONDS, SLOW_SECONDS = 10.0, 30.0
FLOOR_SECONDS, LONGEST_FLOOR_SECONDS = 5.0, 60.0
AGAIN_SECONDS, AGAIN_CEILING_SECONDS = 2.0, 30.0
PATIENCE_SECONDS = 150.0
_QUESTIONS_IN_VAIN = 2


class FileTransfer:
    """The state of one transfer of a sealed payload of at most `most` bytes; `refused` are hashes of no use.

    `due` is when to `ask` next; `begun` is what an earlier transfer left.
    """

    def __init__(
        self, path: str, most: int, now: float, begun: tuple[Manifest, ChunkSet] | None, refused: Container[bytes]
    ) -> None:
        self._path = path
        self._most = most
        self._refused = refused
        self.manifest: Manifest | None = None
        self._arrived = ChunkSet(0)
        if begun is not None:
            self.manifest, self._arrived = begun
        self._awaited: set[int] = set()
        self._window = FIRST_WINDOW
        self._attempt = 0
        self._asked = self._heard = now
        self._longest_gap = 0.0
        self.due = now

    @property
    def whole(self) -> bool:
        """Whether all chunks are here."""
        return self.manifest is not None and self._arrived.full

    def hopeless(self, now: float) -> bool:
        """Whether nothing new has come for so long that it is to be given up for now."""
        return now - self._heard > PATIENCE_SECONDS

    def link_up(self, now: float) -> None:
        """What was asked for before may be lost."""
        self.due = now
        self._awaited.clear()

    def ask(self, now: float, jitter: float) -> Want:
        """The next question."""
        if self._awaited:
            self._window = max(1, self._window // 2)
        missing = self._arrived.missing(self._window) if self.manifest is not None else ()
        self._awaited = set(missing)
        self._asked = now
        floor = min(LONGEST_FLOOR_SECONDS, max(FLOOR_SECONDS, 2 * self._longest_gap))
        spread = full_jitter(self._attempt, jitter, base=AGAIN_SECONDS, ceiling=AGAIN_CEILING_SECONDS)
        self.due = now + floor + spread
        self._attempt += 1
        return Want(path=self._path, sha256=b"" if self.manifest is None else self.manifest.sha256, missing=missing)

    def announced(self, manifest: Manifest, now: float) -> bool:
        """Whether the transfer begins anew with this payload; raises `ProtocolError` when it is too large."""
        if manifest.size > self._most:
            raise ProtocolError(f"announced file has {manifest.size} bytes, expected at most {self._most}")
        in_vain = self.manifest is None or self._attempt >= _QUESTIONS_IN_VAIN
        if not in_vain or manifest == self.manifest or manifest.sha256 in self._refused:
            return False
        self.manifest = manifest
        self._start_again(now)
        return True

    def lacks(self, sha256: bytes, index: int) -> bool:
        """Whether this chunk is of the payload and not here yet."""
        return self.manifest is not None and sha256 == self.manifest.sha256 and index not in self._arrived

    def arrived(self, index: int, now: float) -> None:
        """A chunk that was lacking is kept."""
        self._arrived.add(index)
        self._awaited.discard(index)
        self._longest_gap = max(self._longest_gap, now - max(self._heard, self._asked))
        self._heard, self._attempt = now, 0
        self.due = max(self.due, now + max(FLOOR_SECONDS, 2 * self._longest_gap))
        if not self._awaited:
            self._next_window(now)

    def spoilt(self, now: float) -> None:
        """The payload does not have its hash: all of its chunks are needed again."""
        self._start_again(now)

    def refused(self, now: float) -> None:
        """The payload has its hash and is not what was wanted: another is needed."""
        self.manifest = None
        self._start_again(now)

    def _start_again(self, now: float) -> None:
        self._arrived = ChunkSet(0 if self.manifest is None else self.manifest.chunk_count)
        self._awaited.clear()
        self._attempt = 0
        self._heard = self.due = now

    def _next_window(self, now: float) -> None:
        took = now - self._asked
        if took < QUICK_SECONDS:
            self._window = min(MAX_WANTED, 2 * self._window)
        elif took > SLOW_SECONDS:
            self._window = max(1, self._window // 2)
        self.due = now
