"""The file of a back-up: a tar archive under zstd, with a checksum of all of it.

    back-up.json            format, version of the schema, when it was made (seconds since the Unix epoch)
    tables/{number}         rows of one table, MessagePack (`table_rows`)
    state/...               files of the state folder
    fleet/...               files of the operator's folder
    end                     so that a file that was cut off is not taken for whole

Invariant: a file of this name is whole: it is written under another name and renamed. Only its owner can read it.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import msgspec
import zstandard

from server.errors import DamagedError, StorageError
from wire_protocol.durable_files import sync_folder

FORMAT = 1
_HEAD, _END = "back-up.json", "end"
_MOST_OF_A_HEAD = 10_000
_BLOCK_BYTES = 2**16


class Head(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a back-up says of itself."""

    format: int
    schema: str
    made: float


class Writer:
    """Puts members into a back-up; made by `writing`."""

    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive

    def add(self, name: str, content: bytes) -> None:
        """A member of this content."""
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o600
        self._archive.addfile(member, io.BytesIO(content))

    def add_file(self, name: str, path: Path) -> None:
        """A member of a file's content, as long as it is now."""
        with path.open("rb") as file:
            self._archive.addfile(self._archive.gettarinfo(arcname=name, fileobj=file), file)


@contextmanager
def writing(path: Path, head: Head) -> Iterator[Writer]:
    """A new back-up at `path`, which is there once all went well; raises `StorageError`."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        if path.exists():
            raise StorageError(f"{path} is there already: choose another name")
        partial.touch(0o600)
        with partial.open("wb") as file:
            compressor = zstandard.ZstdCompressor(write_checksum=True)
            with (
                compressor.stream_writer(file, closefd=False) as stream,
                tarfile.open(fileobj=stream, mode="w|") as archive,
            ):
                writer = Writer(archive)
                writer.add(_HEAD, msgspec.json.encode(head))
                yield writer
                writer.add(_END, b"")
            os.fsync(file.fileno())
        partial.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"back-up {path} cannot be written: {error}") from error
    finally:
        partial.unlink(missing_ok=True)


class Reader:
    """The members of a back-up, in order; made by `reading`. `head` is what it says of itself."""

    def __init__(self, path: Path, stream: IO[bytes], archive: tarfile.TarFile) -> None:
        self._path = path
        self._stream = stream
        self._archive = archive
        self.head = self._head()

    def members(self) -> Iterator[tarfile.TarInfo]:
        """All members; raises `DamagedError` at the end of a file that was cut off, or is not what was written."""
        while (member := self._archive.next()) is not None:
            if member.name == _END:
                while self._stream.read(_BLOCK_BYTES):
                    pass  # zstd's checksum stands at its end, and is looked at only there
                return
            yield member
        raise DamagedError(f"back-up {self._path} is cut off")

    def content(self, member: tarfile.TarInfo) -> bytes:
        """Content of the member at hand."""
        stream = self._archive.extractfile(member)
        return b"" if stream is None else stream.read()

    def extract(self, member: tarfile.TarInfo, folder: Path) -> None:
        """Make a file of the member at hand under `folder`, and nowhere else."""
        self._archive.extract(member, folder, filter="data")

    def _head(self) -> Head:
        first = self._archive.next()
        if first is None or first.name != _HEAD or first.size > _MOST_OF_A_HEAD:
            raise DamagedError(f"{self._path} is no back-up: it does not begin with {_HEAD}")
        try:
            head = msgspec.json.decode(self.content(first), type=Head)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise DamagedError(f"{self._path} is no back-up: {_HEAD}: {error}") from error
        if head.format != FORMAT:
            raise DamagedError(f"back-up {self._path} has format {head.format}, expected {FORMAT}")
        return head


@contextmanager
def reading(path: Path) -> Iterator[Reader]:
    """A back-up; raises `StorageError` where it cannot be read, `DamagedError` where it is none, or not whole."""
    try:
        with (
            path.open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as stream,
            tarfile.open(fileobj=stream, mode="r|") as archive,
        ):
            yield Reader(path, stream, archive)
    except OSError as error:
        raise StorageError(f"back-up {path}: {error}") from error
    except (tarfile.TarError, zstandard.ZstdError, EOFError) as error:
        raise DamagedError(f"{path} is no back-up, or damaged: {error}") from error
