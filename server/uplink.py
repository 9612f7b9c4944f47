"""Put devices' chunked updates together, sans-I/O: pieces in, what to answer out.

Invariants: at most one assembly a device, of at most `max_payload` bytes; a newer round or a newer payload of the same
round replaces it. The first manifest of a payload is not answered, as its chunks follow at once; a repeated one is
answered with the chunks still missing. A complete payload is handed over once and then held back from being assembled
again until `release`, so that a manifest repeated while it is being counted starts nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice

from wire_protocol.chunking import Assembly
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import Layout
from wire_protocol.messages import Manifest, Need
from wire_protocol.sub_model import full_sub_model, sub_shapes, to_bitmaps
from wire_protocol.tensor_codec import Codec, largest_size
from wire_protocol.topics import Part

MAX_NEED = 4096
"""Chunks named in one answer, so that it fits in any broker's message; the next answer names the rest."""
_HEADER_BYTES = 1024
_BITMAP_HEADER_BYTES = 16


def max_update_size(layout: Layout, codec: Codec) -> int:
    """Bytes that no honest update exceeds: full-width values, the bitmaps with their names, and the header."""
    whole = full_sub_model(layout)
    bitmaps = sum(
        len(name.encode()) + len(bitmap) + _BITMAP_HEADER_BYTES for name, bitmap in to_bitmaps(layout, whole).items()
    )
    return largest_size(sub_shapes(layout, whole.widths), codec) + bitmaps + _HEADER_BYTES


@dataclass(frozen=True)
class Complete:
    """A whole payload whose hash is the announced one."""

    part: Part
    sha256: bytes
    payload: bytes = field(repr=False)


@dataclass
class _Pending:
    run: str
    round: int
    assembly: Assembly
    arrived: set[int] = field(default_factory=set)
    handed_over: bool = False


class Uplink:
    """All assemblies under way."""

    def __init__(self, max_payload: int) -> None:
        self._max_payload = max_payload
        self._pending: dict[str, _Pending] = {}

    def manifest(self, part: Part, manifest: Manifest) -> Need | None:
        """Take an announcement; raises `ProtocolError` when the payload would be too large."""
        pending = self._pending.get(part.device)
        if pending is not None and pending.run == part.run:
            if pending.round == part.round and pending.handed_over:
                return None
            if pending.round == part.round and pending.assembly.manifest == manifest:
                lacking = (index for index in range(manifest.chunk_count) if index not in pending.arrived)
                return Need(run=part.run, round=part.round, missing=tuple(islice(lacking, MAX_NEED)))
            if part.round < pending.round:
                return None
        self._pending[part.device] = _Pending(part.run, part.round, Assembly(manifest, self._max_payload))
        return None

    def chunk(self, part: Part, content: bytes) -> Complete | None:
        """Take a chunk; a stray one is ignored.

        Raises `ProtocolError` for a chunk that the manifest does not allow, and when the last chunk is there but the
        hash differs: then all chunks are needed again.
        """
        pending = self._pending.get(part.device)
        if pending is None or (pending.run, pending.round) != (part.run, part.round):
            return None
        if part.chunk is None or pending.handed_over:
            return None
        pending.assembly.add(part.chunk, content)
        pending.arrived.add(part.chunk)
        manifest = pending.assembly.manifest
        if len(pending.arrived) < manifest.chunk_count:
            return None
        try:
            payload = pending.assembly.payload()
        except ProtocolError:
            pending.arrived.clear()
            raise
        self._pending[part.device] = _Pending(
            part.run, part.round, Assembly(manifest, self._max_payload), handed_over=True
        )
        return Complete(part, manifest.sha256, payload)

    def release(self, part: Part) -> None:
        """Forget a payload handed over: it was counted, refused, or must be sent again. What came since is kept."""
        pending = self._pending.get(part.device)
        if pending is not None and pending.handed_over and (pending.run, pending.round) == (part.run, part.round):
            del self._pending[part.device]

    def clear(self) -> None:
        """Forget all: another round is open."""
        self._pending.clear()
