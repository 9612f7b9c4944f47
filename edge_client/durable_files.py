"""Files that survive a kill at any moment and are noticed when they rot: the device's only way to write its state.

`write_durably` writes beside the file, syncs, renames and syncs the folder: whoever finds the file finds all of it.
`write_checked` puts a SHA-256 before the content, and `read_checked` refuses content that has another. Functions block.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path

from edge_client.card_wear import note
from edge_client.errors import ConfigError, DamagedFileError
from wire_protocol.durable_files import sync_folder

UNFINISHED = ".new"
"""Ends the name of a file that is still being written."""
DIGEST_BYTES = 32

_WORDS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EROFS: "the disk is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.EIO: "the disk is failing",
}


def plainly(error: OSError) -> str:
    """What a disk's error means, in plain words where there are any."""
    return _WORDS.get(error.errno or 0) or str(error)


def is_of_disk(error: OSError) -> bool:
    """Whether it is the disk that failed, where a network could have."""
    return error.errno in _WORDS


def write_durably(path: Path, pieces: Iterable[bytes]) -> None:
    """Make `path` hold the pieces in one step, on disk when this returns; raises `OSError` and leaves no rest."""
    fresh = path.with_name(f"{path.name}{UNFINISHED}")
    try:
        with fresh.open("wb") as file:
            for piece in pieces:
                note(path, file.write(piece))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
    except OSError:
        with suppress(OSError):
            fresh.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_checked(path: Path, content: bytes) -> None:
    """`write_durably` with the content's SHA-256 before it."""
    write_durably(path, (sha256(content).digest(), content))


def read_checked(path: Path, most: int) -> bytes:
    """Content that `write_checked` wrote, of at most `most` bytes; raises `DamagedFileError` or `OSError`."""
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > DIGEST_BYTES + most:
            raise DamagedFileError(f"{path} is longer than it is ever written")
        digest, content = file.read(DIGEST_BYTES), file.read()
    if sha256(content).digest() != digest:
        raise DamagedFileError(f"{path} is damaged")
    return content


@contextmanager
def only_user_of(folder: Path) -> Iterator[None]:
    """Hold a folder while the body runs; raises `ConfigError` when another process holds it. A kill lets it go.

    A folder that cannot be made or opened is not held: what comes to write there will say so.
    """
    if os.name != "posix":
        yield
        return
    descriptor = None
    with suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        if descriptor is not None:
            _lock(descriptor, folder)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _lock(descriptor: int, folder: Path) -> None:
    import fcntl  # noqa: PLC0415 - only where it exists

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConfigError(f"state {folder} is in use by another device process") from error
