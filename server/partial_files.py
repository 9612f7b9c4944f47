"""Chunks of unfinished payloads on disk, so that a transfer goes on after cuts, restarts and days.

A payload has two files named by run, round, device and hash: its bytes, each chunk at its place, and a journal, to
which the number of each chunk is appended after its bytes are written. Nothing is synced: a killed process loses
nothing, and what a power cut mixes up does not have the announced hash, is thrown away and sent again.

Invariants: a device has one payload here, the last of which a chunk came; all together take `max_bytes`, but for a
single larger one: those unused longest go first. A payload that is whole after a restart lacks its last chunk, as only
a chunk hands a payload over.

Journal: "FJ1\\n", size and chunk size as 64 bit, then chunk numbers as 32 bit, all little-endian.
"""

from __future__ import annotations

import logging
import struct
from dataclasses import dataclass
from pathlib import Path

from server.errors import StorageError
from wire_protocol import topics
from wire_protocol.chunking import ChunkSet, require_chunk, require_hash
from wire_protocol.errors import InvalidValueError, ProtocolError, require
from wire_protocol.messages import Manifest
from wire_protocol.topics import Part

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 4 * 2**30
_MAGIC = b"FJ1\n"
_HEADER = struct.Struct("<4sQQ")
_NUMBER = struct.Struct("<I")
_DATA, _JOURNAL = ".data", ".journal"


@dataclass(frozen=True)
class Kept:
    """What a payload's files are named without their endings, and the bytes they take at most."""

    stem: str
    size: int


class PartialFiles:
    """The unfinished payloads of one run in `folder`, which is made when missing; raises `StorageError` if need be."""

    def __init__(self, folder: Path, run: str, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        topics.require_identifier("run", run)
        require(max_bytes >= 1, "max_bytes", max_bytes, "at least 1")
        self._folder = folder
        self._run = run
        self._max_bytes = max_bytes
        self._kept: dict[str, Kept] = {}
        self._bytes = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._look_around()
        except OSError as error:
            raise StorageError(f"folder {folder} cannot be used ({error.strerror})") from error

    @property
    def bytes_kept(self) -> int:
        """Bytes that all payloads here take at most."""
        return self._bytes

    def open(self, part: Part, manifest: Manifest) -> PartialPayload:
        """The announced payload with what came of it before; one that is new takes no room until a chunk comes."""
        stem = f"{part.run}.{part.round}.{part.device}.{manifest.sha256.hex()}"
        return PartialPayload(self, part.device, self._folder / stem, manifest)

    def remove(self, payload: PartialPayload) -> None:
        """Forget a payload: it is done with."""
        if self.has(payload):
            self._forget(payload.device)

    def forget_before(self, number: int) -> None:
        """Forget the payloads of rounds before `number`: such count no more."""
        for device, kept in tuple(self._kept.items()):
            if _round_of(kept.stem) < number:
                self._forget(device)

    def has(self, payload: PartialPayload) -> bool:
        """Whether files of this payload are here."""
        return self._kept.get(payload.device) == payload.kept

    def use(self, payload: PartialPayload) -> None:
        """Make room for a payload of which a chunk came."""
        if self.has(payload):
            self._kept[payload.device] = self._kept.pop(payload.device)
            return
        if payload.device in self._kept:
            self._forget(payload.device)
        self._keep(payload.device, payload.kept)

    def _keep(self, device: str, kept: Kept) -> None:
        while self._kept and self._bytes + kept.size > self._max_bytes:
            self._forget(next(iter(self._kept)))
        self._kept[device] = kept
        self._bytes += kept.size

    def _forget(self, device: str) -> None:
        kept = self._kept.pop(device)
        self._bytes -= kept.size
        self._unlink(kept.stem)

    def _unlink(self, stem: str) -> None:
        for ending in (_JOURNAL, _DATA):
            _remove(self._folder / f"{stem}{ending}")

    def _look_around(self) -> None:
        """Take up what an earlier process left, the unused longest first; what is of no use goes."""
        files = [path for path in self._folder.iterdir() if path.name.startswith(f"{self._run}.")]
        journals = {path.stem: path for path in files if path.suffix == _JOURNAL}
        for path in files:
            if path.suffix == _DATA and path.stem not in journals:
                self._unlink(path.stem)
        for stem, journal in sorted(journals.items(), key=lambda item: item[1].stat().st_mtime_ns):
            device, size = _device_of(stem), _announced_size(journal)
            if device is None or size is None or not (self._folder / f"{stem}{_DATA}").exists():
                self._unlink(stem)
                continue
            if device in self._kept:
                self._forget(device)
            self._keep(device, Kept(stem, size))


class PartialPayload:
    """One payload under way; `path` is that of its files without their endings. Made by `PartialFiles.open`."""

    def __init__(self, files: PartialFiles, device: str, path: Path, manifest: Manifest) -> None:
        self.device = device
        self.path = path
        self.manifest = manifest
        self.kept = Kept(path.name, _room(manifest))
        self._files = files
        self.arrived = ChunkSet(manifest.chunk_count)
        self._journal_end = 0
        if files.has(self):
            self._read_journal()

    @property
    def complete(self) -> bool:
        """Whether all chunks are here."""
        return self.arrived.full

    def add(self, index: int, content: bytes) -> bool:
        """Write chunk `index`; whether it is new.

        Raises `ProtocolError` for one that the manifest does not have, `StorageError` when it cannot be written: then
        it is not here.
        """
        require_chunk(self.manifest, index, content)
        if not self._files.has(self):
            self._start_over()
        if index in self.arrived:
            return False
        self._files.use(self)
        try:
            if self._journal_end == 0:
                self._begin()
            _write_at(self._file(_DATA), index * self.manifest.chunk_bytes, content)
            _write_at(self._file(_JOURNAL), self._journal_end, _NUMBER.pack(index))
        except OSError as error:
            raise StorageError(f"chunk {index} cannot be written ({error.strerror}): {self.path}") from error
        self._journal_end += _NUMBER.size
        self.arrived.add(index)
        return True

    def payload(self) -> bytes:
        """The whole payload; raises `ProtocolError` or `StorageError` and starts over when that is not to be had."""
        try:
            with self._file(_DATA).open("rb") as file:
                payload = file.read(self.manifest.size)
            require_hash(self.manifest, payload)
        except (ProtocolError, OSError) as error:
            self._files.remove(self)
            self._start_over()
            if isinstance(error, OSError):
                raise StorageError(f"{self.path} cannot be read ({error.strerror})") from error
            raise
        return payload

    def _file(self, ending: str) -> Path:
        return self.path.with_name(f"{self.path.name}{ending}")

    def _begin(self) -> None:
        self._file(_DATA).write_bytes(b"")
        header = _HEADER.pack(_MAGIC, self.manifest.size, self.manifest.chunk_bytes)
        self._file(_JOURNAL).write_bytes(header)
        self._journal_end = len(header)

    def _start_over(self) -> None:
        self.arrived = ChunkSet(self.manifest.chunk_count)
        self._journal_end = 0

    def _read_journal(self) -> None:
        longest = _HEADER.size + 2 * _NUMBER.size * self.manifest.chunk_count
        try:
            with self._file(_JOURNAL).open("rb") as file:
                journal = file.read(longest + 1)
        except OSError:
            return
        entries = journal[_HEADER.size :]
        entries = entries[: len(entries) - len(entries) % _NUMBER.size]
        numbers = [number for (number,) in _NUMBER.iter_unpack(entries)]
        header = _HEADER.pack(_MAGIC, self.manifest.size, self.manifest.chunk_bytes)
        legal = all(number < self.manifest.chunk_count for number in numbers)
        if not (journal.startswith(header) and len(journal) <= longest and legal):
            return
        for number in numbers:
            self.arrived.add(number)
        self._journal_end = _HEADER.size + len(entries)
        if self.complete:
            self.arrived.discard(self.manifest.chunk_count - 1)


def _room(manifest: Manifest) -> int:
    return manifest.size + _HEADER.size + _NUMBER.size * manifest.chunk_count


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        logger.warning("%s cannot be removed (%s)", path, error.strerror)


def _write_at(path: Path, position: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(position)
        file.write(content)


def _device_of(stem: str) -> str | None:
    """Device in the name of a payload's files; None for a name that was not made here."""
    fields = stem.split(".")
    if len(fields) != 4:
        return None
    try:
        return topics.require_identifier("device", fields[2])
    except InvalidValueError:
        return None


def _round_of(stem: str) -> int:
    number = stem.split(".")[1]
    return int(number) if number.isdecimal() else 0


def _announced_size(journal: Path) -> int | None:
    """Bytes that a payload takes, by the header of its journal; None where it has none."""
    try:
        with journal.open("rb") as file:
            magic, size, chunk_bytes = _HEADER.unpack(file.read(_HEADER.size))
        return _room(Manifest(sha256=bytes(32), size=size, chunk_bytes=chunk_bytes)) if magic == _MAGIC else None
    except (OSError, struct.error, InvalidValueError):
        return None
