"""Split a payload into chunks that any broker takes, and put it together again.

The sender announces a `Manifest` (hash, size, chunk size); the receiver says which chunks it still needs. Chunks may
arrive in any order and more than once; of a chunk that comes again the first copy stands. Memory is bounded by the size
the manifest declares, which the caller bounds.
"""

from __future__ import annotations

from hashlib import sha256

from wire_protocol.errors import ProtocolError
from wire_protocol.messages import Manifest

DEFAULT_CHUNK_BYTES = 124 * 1024
"""AWS IoT Core takes 128 KB a message; 4 KB are left for topic and header."""


def manifest_of(payload: bytes, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> Manifest:
    """Announce `payload`."""
    return Manifest(sha256=sha256(payload).digest(), size=len(payload), chunk_bytes=chunk_bytes)


def chunk(payload: bytes, manifest: Manifest, index: int) -> bytes:
    """Chunk number `index` of `payload`."""
    start = index * manifest.chunk_bytes
    return payload[start : start + manifest.chunk_bytes]


def require_chunk(manifest: Manifest, index: int, content: bytes) -> None:
    """Raise `ProtocolError` where the manifest has no such chunk or another length."""
    if not 0 <= index < manifest.chunk_count:
        raise ProtocolError(f"chunk {index} of a payload with {manifest.chunk_count} chunks")
    expected = min(manifest.chunk_bytes, manifest.size - index * manifest.chunk_bytes)
    if len(content) != expected:
        raise ProtocolError(f"chunk {index} has {len(content)} bytes, expected {expected}")


def require_hash(manifest: Manifest, payload: bytes) -> None:
    """Raise `ProtocolError` unless this is the announced payload."""
    if sha256(payload).digest() != manifest.sha256:
        raise ProtocolError("payload does not have the announced SHA-256")


class ChunkSet:
    """Which of `count` chunks are here: one byte for each, so that neither many chunks nor gaps cost much."""

    def __init__(self, count: int) -> None:
        self._here = bytearray(count)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def __contains__(self, index: int) -> bool:
        return 0 <= index < len(self._here) and bool(self._here[index])

    @property
    def full(self) -> bool:
        """Whether all are here."""
        return self._size == len(self._here)

    def add(self, index: int) -> None:
        """Note that a chunk is here; `index` must be one of theirs."""
        self._size += not self._here[index]
        self._here[index] = 1

    def discard(self, index: int) -> None:
        """Note that a chunk is not here."""
        self._size -= self._here[index]
        self._here[index] = 0

    def missing(self, limit: int | None = None) -> tuple[int, ...]:
        """Numbers not here, ascending; with a limit the first so many."""
        lacking = len(self._here) - self._size
        numbers: list[int] = []
        index = -1
        for _ in range(lacking if limit is None else min(limit, lacking)):
            index = self._here.find(0, index + 1)
            numbers.append(index)
        return tuple(numbers)


class Assembly:
    """Collects the chunks of one payload in memory."""

    def __init__(self, manifest: Manifest, max_size: int) -> None:
        if manifest.size > max_size:
            raise ProtocolError(f"announced payload has {manifest.size} bytes, expected at most {max_size}")
        self.manifest = manifest
        self.arrived = ChunkSet(manifest.chunk_count)
        self._chunks: dict[int, bytes] = {}

    def add(self, index: int, content: bytes) -> bool:
        """Take chunk `index`; whether it is new. Raises `ProtocolError` for one that the manifest does not have."""
        require_chunk(self.manifest, index, content)
        if index in self.arrived:
            return False
        self._chunks[index] = content
        self.arrived.add(index)
        return True

    @property
    def complete(self) -> bool:
        """Whether all chunks are here; costs the same however many there are."""
        return self.arrived.full

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the chunks not yet here."""
        return self.arrived.missing()

    def payload(self) -> bytes:
        """The whole payload; raises `ProtocolError` when chunks are missing or the hash differs: then all are."""
        if not self.complete:
            raise ProtocolError(f"payload lacks {self.manifest.chunk_count - len(self.arrived)} of its chunks")
        payload = b"".join(self._chunks[index] for index in range(self.manifest.chunk_count))
        try:
            require_hash(self.manifest, payload)
        except ProtocolError:
            self._chunks.clear()
            self.arrived = ChunkSet(self.manifest.chunk_count)
            raise
        return payload
