"""A file to be fetched, by whatever way: what it must be, where it waits until it is whole, and when it is.

Content goes to `<target>.part`, is checked against its SHA-256, synced, and only then renamed to `target`; whoever
finds `target` finds all of it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from threading import Event

from wire_protocol.durable_files import sync_folder

BLOCK_BYTES = 64 * 1024


@dataclass(frozen=True)
class Wanted:
    """A file to fetch: lower-case hexadecimal `sha256`; `size` in bytes, exact or, where not `exact`, the most.

    `path` is what the server calls the file; `url` is where it serves it by HTTP.
    """

    url: str
    target: Path
    sha256: str
    size: int
    exact: bool = True
    path: str = ""


@dataclass(frozen=True)
class Http:
    """How to fetch: trusted certificates for https (None: the system's), what ends a transfer early, and who is told
    of bytes that came.
    """

    tls: ssl.SSLContext | None = None
    stop: Event = field(default_factory=Event)
    received: Callable[[int], None] = lambda _count: None


class TryAgainError(Exception):
    """The transfer failed in a way that may pass."""


class OtherFileError(TryAgainError):
    """What came was whole and is not the file wanted."""


def file_sha256(path: Path) -> str:
    """Lower-case hexadecimal SHA-256 of a file, read block by block."""
    digest = sha256()
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def is_here(wanted: Wanted) -> bool:
    """Whether `wanted.target` exists with the right content."""
    return wanted.target.is_file() and file_sha256(wanted.target) == wanted.sha256


def part_of(wanted: Wanted) -> Path:
    """Where content waits until it is whole."""
    return wanted.target.with_name(f"{wanted.target.name}.part")


def finish(wanted: Wanted) -> None:
    """Turn the `.part` into the target if it is the wanted content."""
    part = part_of(wanted)
    have = part.stat().st_size
    if wanted.exact and have < wanted.size:
        raise TryAgainError(f"the connection ended after {have} of {wanted.size} bytes")
    if file_sha256(part) != wanted.sha256:
        part.unlink()
        raise OtherFileError(f"the content does not have SHA-256 {wanted.sha256}")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(wanted.target)
    sync_folder(wanted.target.parent)


def by_http(wanted: Wanted, http: Http) -> None:
    """See `http_download.download`, which is loaded by the first file that is fetched."""
    from edge_client.http_download import download  # noqa: PLC0415 - a device that waits for a plan needs no HTTP

    download(wanted, http)
