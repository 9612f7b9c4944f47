"""Files sealed for devices, on disk, so that a transfer over MQTT goes on after cuts and restarts of the server.

A payload is one file named by device, subject (a digest of all that went into it), its SHA-256 and its chunk size.
Invariants: a device has at most `PER_DEVICE` payloads here; all together take at most `max_bytes`; what was used in the
last `BUSY_SECONDS` goes only for another of its own device, so that many devices wait for each other instead of
throwing each other's transfers away. What goes first is what was used longest ago. Functions block.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from server.durable_files import write_durably
from server.errors import StorageError
from wire_protocol import chunking
from wire_protocol.errors import require
from wire_protocol.messages import Manifest

logger = logging.getLogger(__name__)

DEFAULT_MAX_BYTES = 512 * 2**20
PER_DEVICE = 2
BUSY_SECONDS = 120.0
"""More than the longest wait of a device before it asks again, 90 s."""
_NAME = re.compile(r"([A-Za-z0-9][A-Za-z0-9_-]{0,63})\.([0-9a-f]{32})\.([0-9a-f]{64})\.([1-9][0-9]{0,8})")


@dataclass(frozen=True)
class SealedFile:
    """A payload here; `manifest` announces it."""

    device: str
    subject: str
    manifest: Manifest

    @property
    def name(self) -> str:
        """Its file's name."""
        return f"{self.device}.{self.subject}.{self.manifest.sha256.hex()}.{self.manifest.chunk_bytes}"


class SealedFiles:
    """The payloads in `folder`, which is made when missing; `clock` gives seconds and never goes back."""

    def __init__(self, folder: Path, clock: Callable[[], float], max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        require(max_bytes >= 1, "max_bytes", max_bytes, "at least 1")
        self._folder = folder
        self._clock = clock
        self._max_bytes = max_bytes
        self._used: dict[SealedFile, float] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._look_around()
        except OSError as error:
            raise StorageError(f"folder {folder} cannot be used ({error.strerror})") from error

    @property
    def bytes_kept(self) -> int:
        """Bytes that all payloads here take."""
        return sum(each.manifest.size for each in self._used)

    def find(self, device: str, subject: str) -> SealedFile | None:
        """The device's payload of this subject, which counts as used."""
        for each in self._used:
            if (each.device, each.subject) == (device, subject):
                self._used[each] = self._clock()
                return each
        return None

    def add(self, device: str, subject: str, payload: bytes, chunk_bytes: int) -> SealedFile | None:
        """Keep a payload; None when there is no room for it now. Raises `StorageError`."""
        fresh = SealedFile(device, subject, chunking.manifest_of(payload, chunk_bytes))
        if not self.make_room(device, len(payload)):
            return None
        write_durably(self._folder / fresh.name, payload)
        self._used[fresh] = self._clock()
        return fresh

    def make_room(self, device: str, size: int) -> bool:
        """Let go of what is in the way of a payload of the device; whether there is room for it then."""
        own = self._oldest_first(lambda each: each.device == device)
        for each in own[: max(0, len(own) - PER_DEVICE + 1)]:
            self._remove(each)
        idle = self._oldest_first(lambda each: self._clock() - self._used[each] >= BUSY_SECONDS)
        while self.bytes_kept + size > self._max_bytes and idle:
            self._remove(idle.pop(0))
        return self.bytes_kept + size <= self._max_bytes

    def chunk(self, file: SealedFile, index: int) -> bytes:
        """A chunk of a payload here; raises `StorageError`."""
        try:
            with (self._folder / file.name).open("rb") as stream:
                stream.seek(index * file.manifest.chunk_bytes)
                return stream.read(file.manifest.chunk_bytes)
        except OSError as error:
            raise StorageError(f"{self._folder / file.name} cannot be read ({error.strerror})") from error

    def _oldest_first(self, which: Callable[[SealedFile], bool]) -> list[SealedFile]:
        return sorted((each for each in self._used if which(each)), key=lambda each: self._used[each])

    def _remove(self, file: SealedFile) -> None:
        del self._used[file]
        try:
            (self._folder / file.name).unlink(missing_ok=True)
        except OSError as error:
            logger.warning("%s cannot be removed (%s)", self._folder / file.name, error.strerror)

    def _look_around(self) -> None:
        """What an earlier server left counts as used long ago, in the order in which it was made."""
        paths = sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns)
        for age, path in enumerate(paths, start=-len(paths)):
            size, name = path.stat().st_size, _NAME.fullmatch(path.name)
            if name is None or not size:
                path.unlink(missing_ok=True)
                continue
            digest, chunk_bytes = bytes.fromhex(name[3]), int(name[4])
            manifest = Manifest(sha256=digest, size=size, chunk_bytes=chunk_bytes)
            self._used[SealedFile(name[1], name[2], manifest)] = self._clock() - 2 * BUSY_SECONDS + age
        self.make_room("", 0)
