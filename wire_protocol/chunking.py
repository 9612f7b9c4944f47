"""Split a payload into chunks that any broker takes, and put it together again.

The sender announces a `Manifest` (hash, size, chunk size); the receiver says which chunks it still needs. Chunks may
arrive in any order and more than once. Memory is bounded by the size the manifest declares, which the caller bounds.
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


class Assembly:
    """Collects the chunks of one payload."""

    def __init__(self, manifest: Manifest, max_size: int) -> None:
        if manifest.size > max_size:
            raise ProtocolError(f"announced payload has {manifest.size} bytes, expected at most {max_size}")
        self.manifest = manifest
        self._chunks: dict[int, bytes] = {}

    def add(self, index: int, content: bytes) -> None:
        """Take chunk `index`; raises `ProtocolError` where the manifest has no such chunk or another length."""
        if not 0 <= index < self.manifest.chunk_count:
            raise ProtocolError(f"chunk {index} of a payload with {self.manifest.chunk_count} chunks")
        expected = min(self.manifest.chunk_bytes, self.manifest.size - index * self.manifest.chunk_bytes)
        if len(content) != expected:
            raise ProtocolError(f"chunk {index} has {len(content)} bytes, expected {expected}")
        self._chunks[index] = content

    @property
    def complete(self) -> bool:
        """Whether all chunks are here; costs the same however many there are."""
        return len(self._chunks) == self.manifest.chunk_count

    @property
    def missing(self) -> tuple[int, ...]:
        """Numbers of the chunks not yet here."""
        return tuple(index for index in range(self.manifest.chunk_count) if index not in self._chunks)

    def payload(self) -> bytes:
        """The whole payload; raises `ProtocolError` when chunks are missing or the hash differs."""
        if not self.complete:
            raise ProtocolError(f"payload lacks {self.manifest.chunk_count - len(self._chunks)} of its chunks")
        payload = b"".join(self._chunks[index] for index in range(self.manifest.chunk_count))
        if sha256(payload).digest() != self.manifest.sha256:
            self._chunks.clear()
            raise ProtocolError("payload does not have the announced SHA-256")
        return payload
