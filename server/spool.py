"""Bodies of counted updates on disk, one segment file a round: `state/spool/{run}/{round}.segment`.

A segment is bodies end to end, without names or lengths: those are in the database (`update_rows`), whose commit says
what stands. `write` makes bodies durable (fsync) behind the bytes that rows speak for and leaves the end where it was;
`commit` moves it. So what was written for a transaction that failed, or was cut off by a power failure, is written over
by the next, and is never read. This is a log with an external commit record (Gray and Reuter 1993, chapter 9).

After a failed fsync the kernel may drop the bytes and report success the next time (Rebello et al. 2020, "Can
Applications Recover from fsync Failures?"), so nothing rests on an earlier write: whoever tries again writes again.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from server.durable_files import make_folder
from server.errors import DamagedError, StorageError
from wire_protocol.durable_files import sync_folder

_SUFFIX = ".segment"


@dataclass(frozen=True)
class Extent:
    """Where a body stands in its segment, in bytes."""

    offset: int
    length: int


class Segment:
    """The bodies of one round; `end` bytes of the file are spoken for, what follows is cut off.

    Raises `DamagedError` when the file is shorter than that.
    """

    def __init__(self, path: Path, end: int) -> None:
        self._path = path
        self._end = end
        try:
            size = path.stat().st_size if path.exists() else 0
            if size > end:
                os.truncate(path, end)
        except OSError as error:
            raise StorageError(f"{path} cannot be opened ({error.strerror})") from error
        if size < end:
            raise DamagedError(f"{path} has {size} bytes, the database speaks of {end}: it was cut off or replaced")

    @property
    def end(self) -> int:
        """Bytes that rows speak for."""
        return self._end

    def write(self, bodies: Iterable[bytes]) -> list[Extent]:
        """Make bodies durable behind the end with one fsync; raises `StorageError`, and then nothing has changed.

        Each is written before the next is asked for, so that they need not be in memory together.
        """
        extents: list[Extent] = []
        descriptor, end = None, self._end
        try:
            for body in bodies:
                descriptor = self._open() if descriptor is None else descriptor
                extents.append(Extent(end, len(body)))
                end += _write_at(descriptor, end, body)
            if descriptor is not None:
                self._sync(descriptor)
        except OSError as error:
            raise StorageError(f"{self._path} cannot be written ({error.strerror})") from error
        finally:
            if descriptor is not None:
                os.close(descriptor)
        return extents

    def commit(self, end: int) -> None:
        """Rows now speak for `end` bytes."""
        self._end = end

    def read(self, extents: Sequence[Extent]) -> list[bytes]:
        """Bodies; raises `DamagedError` when one is not all there."""
        try:
            with self._path.open("rb") as file:
                bodies = [os.pread(file.fileno(), extent.length, extent.offset) for extent in extents]
        except OSError as error:
            raise StorageError(f"{self._path} cannot be read ({error.strerror})") from error
        for extent, body in zip(extents, bodies, strict=True):
            if len(body) != extent.length:
                raise DamagedError(f"{self._path} ends before byte {extent.offset + extent.length}")
        return bodies

    def _open(self) -> int:
        if not self._end:
            make_folder(self._path.parent)
        return os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)

    def _sync(self, descriptor: int) -> None:
        os.fsync(descriptor)
        if not self._end:
            sync_folder(self._path.parent)


def _write_at(descriptor: int, offset: int, content: bytes) -> int:
    view = memoryview(content)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
    return len(content)


class Spool:
    """The segments of one run."""

    def __init__(self, state: Path, run: str) -> None:
        self._folder = state / "spool" / run

    def segment(self, number: int, end: int) -> Segment:
        """The segment of a round, of which rows speak for `end` bytes."""
        return Segment(self._folder / f"{number}{_SUFFIX}", end)

    def delete_others(self, number: int | None) -> None:
        """Delete all segments but that of round `number`; None deletes all."""
        try:
            for path in self._folder.glob(f"*{_SUFFIX}"):
                if path.name != f"{number}{_SUFFIX}":
                    path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"{self._folder} cannot be tidied ({error.strerror})") from error
