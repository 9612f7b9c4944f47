"""What came so far of a sealed payload, in one file, so that a transfer goes on after cuts and kills.

The file is a header, one byte for each chunk (1: it is here), and the payload, each chunk at its place. A chunk is
marked after its bytes are written. Nothing is synced: a killed process loses nothing, and what a power cut mixes up
does not have the announced hash and is sent again. Functions block and raise `OSError` where the disk fails.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

from edge_client.card_wear import note
from wire_protocol.chunking import ChunkSet, require_chunk, require_hash
from wire_protocol.errors import FisherfleetError
from wire_protocol.messages import Manifest

_MAGIC = b"FS1\n"
_HEADER = struct.Struct(">4s32sQI")


@dataclass(frozen=True)
class SealedPart:
    """The payload at `path`, of at most `most` bytes; one thread at a time may use it."""

    path: Path
    most: int

    def begun(self) -> tuple[Manifest, ChunkSet] | None:
        """What an earlier transfer left; None, and the file is gone, where that is nothing of use."""
        try:
            with self.path.open("rb") as file:
                magic, digest, size, chunk_bytes = _HEADER.unpack(file.read(_HEADER.size))
                manifest = Manifest(sha256=digest, size=size, chunk_bytes=chunk_bytes)
                here = file.read(manifest.chunk_count)
        except FileNotFoundError:
            return None
        except (struct.error, FisherfleetError):
            magic = b""
        if magic != _MAGIC or manifest.size > self.most or len(here) != manifest.chunk_count:
            self.remove()
            return None
        arrived = ChunkSet(manifest.chunk_count)
        for index, mark in enumerate(here):
            if mark == 1:
                arrived.add(index)
        return manifest, arrived

    def begin(self, manifest: Manifest) -> None:
        """Forget what was here and make room for this payload."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("wb") as file:
            file.write(_HEADER.pack(_MAGIC, manifest.sha256, manifest.size, manifest.chunk_bytes))
            file.write(bytes(manifest.chunk_count))

    def keep(self, manifest: Manifest, index: int, content: bytes) -> None:
        """Keep a chunk of the payload begun; raises `ProtocolError` for one that it does not have."""
        require_chunk(manifest, index, content)
        with self.path.open("r+b") as file:
            file.seek(_HEADER.size + manifest.chunk_count + index * manifest.chunk_bytes)
            note(self.path, file.write(content))
            file.flush()
            file.seek(_HEADER.size + index)
            file.write(b"\x01")

    def payload(self, manifest: Manifest) -> bytes:
        """The whole payload; raises `ProtocolError` where it does not have the announced hash."""
        with self.path.open("rb") as file:
            file.seek(_HEADER.size + manifest.chunk_count)
            payload = file.read(manifest.size)
        require_hash(manifest, payload)
        return payload

    def remove(self) -> None:
        """Forget all."""
        self.path.unlink(missing_ok=True)
