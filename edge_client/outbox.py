"""Sealed updates that wait on disk for their receipts, one file for each run and round.

A file is whole or absent, is written before the first byte of its payload is sent, and goes only when its owner says
so. A round has one payload for ever: adding another for it changes nothing. The outbox takes at most `max_bytes` of
payloads and `MAX_PARCELS` of them; the oldest make room for the newest. Files that are damaged or of another fleet are
removed when they are found, with a log line. Functions block and raise `OSError` where the disk fails.

A file is a SHA-256 of what follows it, the length of the header (4 bytes, big-endian), the header (MessagePack) and
the payload.
"""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import msgspec

from edge_client.durable_files import UNFINISHED, plainly, write_durably
from edge_client.errors import DamagedFileError
from edge_client.round_events import Selection
from edge_client.selection_record import SelectionRecord
from wire_protocol.chunking import manifest_of
from wire_protocol.messages import Manifest

logger = logging.getLogger(__name__)

FORMAT = 1
MAX_PARCELS = 256
"""Bounds what a device announces when it comes back: refusals are a few hundred bytes each."""
SUFFIX = ".sealed"
BLOCK_BYTES = 64 * 1024

_PREFIX = struct.Struct(">32sI")
_LENGTH = struct.Struct(">I")


@dataclass(frozen=True)
class Parcel:
    """A sealed payload: the round it answers, its manifest, and the neurons it changes (None: it is no update).

    `sequence` grows with every parcel that a device packs.
    """

    run: str
    round: int
    sequence: int
    manifest: Manifest
    selection: Selection | None

    @property
    def key(self) -> tuple[str, int]:
        """Run and round; no two parcels have the same."""
        return self.run, self.round


class _Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    fleet: str
    run: str
    round: int
    sequence: int
    sha256: bytes
    size: int
    chunk_bytes: int
    selection: SelectionRecord | None


class Outbox:
    """The parcels of one device in `folder`; one thread at a time may call it."""

    def __init__(self, folder: Path, fleet: str, max_bytes: int) -> None:
        self._folder = folder
        self._fleet = fleet
        self._max_bytes = max_bytes
        self._parcels: dict[tuple[str, int], Parcel] = {}

    @property
    def parcels(self) -> tuple[Parcel, ...]:
        """All that wait, the newest first."""
        return tuple(sorted(self._parcels.values(), key=lambda parcel: -parcel.sequence))

    def load(self) -> None:
        """Find what waits on disk."""
        try:
            paths = sorted(self._folder.iterdir())
        except FileNotFoundError:
            return
        except OSError as error:
            logger.warning("outbox %s cannot be read: %s", self._folder, plainly(error))
            return
        for path in paths:
            if path.name.endswith(UNFINISHED):
                _discard(path)
            elif path.name.endswith(SUFFIX):
                self._load_one(path)
        self._make_room(0)

    def add(self, run: str, number: int, payload: bytes, selection: Selection | None) -> tuple[Parcel, ...]:
        """Keep the payload of a round; returns what had to go for it. A round that has one keeps that one."""
        if (run, number) in self._parcels:
            return ()
        dropped = self._make_room(len(payload))
        sequence = 1 + max((parcel.sequence for parcel in self._parcels.values()), default=0)
        parcel = Parcel(run, number, sequence, manifest_of(payload), selection)
        self._folder.mkdir(parents=True, exist_ok=True)
        write_durably(self._path(parcel), _file_pieces(_header(parcel, self._fleet), payload))
        self._parcels[parcel.key] = parcel
        return dropped

    def of_round(self, run: str, number: int) -> Parcel:
        """The parcel that waits for this round."""
        return self._parcels[run, number]

    def payload(self, parcel: Parcel) -> bytes:
        """The very bytes that were added; raises `DamagedFileError`, and the parcel is gone, where they are not."""
        try:
            with self._path(parcel).open("rb") as file:
                _, length = _PREFIX.unpack(file.read(_PREFIX.size))
                file.seek(length, 1)
                payload = file.read(parcel.manifest.size + 1)
        except (FileNotFoundError, struct.error):
            payload = b""
        if sha256(payload).digest() != parcel.manifest.sha256:
            self.remove(parcel)
            raise DamagedFileError(f"{self._path(parcel)} is damaged: the update of this round is lost")
        return payload

    def remove(self, parcel: Parcel) -> None:
        """Forget a parcel, and its file where that can be removed; else it is found again after a restart."""
        self._parcels.pop(parcel.key, None)
        _discard(self._path(parcel))

    def forget(self, parcel: Parcel) -> None:
        """Forget a parcel until the next start and leave its file."""
        self._parcels.pop(parcel.key, None)

    def _load_one(self, path: Path) -> None:
        try:
            header = _read_header(path)
            parcel = _parcel(header)
            if path != self._path(parcel):
                raise DamagedFileError(f"{path} holds round {parcel.round} of run {parcel.run}")
        except OSError as error:
            logger.warning("%s cannot be read: %s: it does not wait any more", path, plainly(error))
            return
        except (DamagedFileError, msgspec.DecodeError, ValueError):
            logger.warning("%s is damaged: the update of this round is lost", path)
            _discard(path)
            return
        if header.fleet != self._fleet:
            logger.warning("%s is of fleet %.64r, this is %s: it is dropped", path, header.fleet, self._fleet)
            _discard(path)
            return
        self._parcels[parcel.key] = parcel

    def _make_room(self, size: int) -> tuple[Parcel, ...]:
        waiting, dropped = list(self.parcels), []
        most = MAX_PARCELS - (size > 0)
        while waiting and (len(waiting) > most or _total(waiting) + size > self._max_bytes):
            oldest = waiting.pop()
            logger.warning(
                "run %s round %d: dropped from the outbox before its receipt came, to make room: it holds %d payloads "
                "of %d bytes in all (outbox_mb)",
                *(oldest.run, oldest.round, MAX_PARCELS, self._max_bytes),
            )
            self.remove(oldest)
            dropped.append(oldest)
        return tuple(dropped)

    def _path(self, parcel: Parcel) -> Path:
        return self._folder / f"{parcel.run}.{parcel.round}{SUFFIX}"


def _total(parcels: Iterable[Parcel]) -> int:
    return sum(parcel.manifest.size for parcel in parcels)


def _discard(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


def _header(parcel: Parcel, fleet: str) -> bytes:
    manifest = parcel.manifest
    selection = None if parcel.selection is None else SelectionRecord.of(parcel.selection)
    return msgspec.msgpack.encode(
        _Header(
            FORMAT, fleet, parcel.run, parcel.round, parcel.sequence,
            manifest.sha256, manifest.size, manifest.chunk_bytes, selection,
        )
    )  # fmt: skip


def _file_pieces(header: bytes, payload: bytes) -> tuple[bytes, ...]:
    length = _LENGTH.pack(len(header))
    digest = sha256(length)
    digest.update(header)
    digest.update(payload)
    return digest.digest(), length, header, payload


def _read_header(path: Path) -> _Header:
    """The header of a file that is as it was written, whatever its size in little memory; else `DamagedFileError`."""
    size = path.stat().st_size
    with path.open("rb") as file:
        prefix = file.read(_PREFIX.size)
        if len(prefix) < _PREFIX.size:
            raise DamagedFileError(f"{path} is cut short")
        expected, length = _PREFIX.unpack(prefix)
        if length > size:
            raise DamagedFileError(f"{path} is cut short")
        header = file.read(length)
        digest = sha256(prefix[-_LENGTH.size :])
        digest.update(header)
        payload_bytes = 0
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            payload_bytes += len(block)
    if digest.digest() != expected:
        raise DamagedFileError(f"{path} has another SHA-256 than it was written with")
    return msgspec.msgpack.decode(header, type=_Header)


def _parcel(header: _Header) -> Parcel:
    if header.format != FORMAT:
        raise DamagedFileError(f"format {header.format}, expected {FORMAT}")
    manifest = Manifest(sha256=header.sha256, size=header.size, chunk_bytes=header.chunk_bytes)
    selection = None if header.selection is None else header.selection.read()
    return Parcel(header.run, header.round, header.sequence, manifest, selection)
