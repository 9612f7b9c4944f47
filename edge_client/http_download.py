"""One file by HTTP, whole or not at all: the only file of a running device that speaks HTTP.

Content goes to `<target>.part`, is checked against its SHA-256, synced, and only then renamed to `target`; whoever
finds `target` finds all of it. A broken transfer leaves its `.part`, and the next try asks for the rest (RFC 9110,
section 14). Functions block; run them in an executor, and set `stop` to end them early.
"""

from __future__ import annotations

import logging
import os
import random
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha256
from http.client import HTTPException
from pathlib import Path
from threading import Event
from typing import IO

from edge_client.card_wear import note
from edge_client.durable_files import is_of_disk
from edge_client.errors import AbsentError, BundleError, SpoiltError, UnreachableError
from edge_client.tls_words import explain
from wire_protocol.backoff import full_jitter
from wire_protocol.durable_files import sync_folder

logger = logging.getLogger(__name__)

ATTEMPTS = 5
BACKOFF_BASE_SECONDS = 0.5
BACKOFF_CEILING_SECONDS = 8.0
SOCKET_TIMEOUT_SECONDS = 20.0
BLOCK_BYTES = 64 * 1024

_PARTIAL_CONTENT = 206
_RANGE_NOT_SATISFIABLE = 416
_SERVER_ERROR = 500
_PASSING_STATUSES = frozenset({408, 425, 429, 500, 502, 503, 504})


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


class _TryAgainError(Exception):
    """The transfer failed in a way that may pass."""


class _OtherFileError(_TryAgainError):
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


def download(wanted: Wanted, http: Http) -> None:
    """Make `wanted.target` hold the wanted content.

    Raises `UnreachableError` when it cannot be had after a few tries, `SpoiltError` when another comes, `AbsentError`
    when there is none, `BundleError` when stopped, and `OSError` at once where the disk fails.
    """
    reason, spoilt = "", False
    for attempt in range(ATTEMPTS):
        if attempt:
            _pause(attempt, wanted, reason, http.stop)
        _require_going(wanted, http.stop)
        try:
            _receive(wanted, http)
            finish(wanted)
        except urllib.error.HTTPError as error:
            reason, spoilt = _reason_of(error, wanted), False
        except (OSError, HTTPException, _TryAgainError) as error:
            if isinstance(error, OSError) and not isinstance(error, urllib.error.URLError) and is_of_disk(error):
                raise
            reason, spoilt = explain(error, "the server"), isinstance(error, _OtherFileError)
        else:
            return
    kind = SpoiltError if spoilt else UnreachableError
    raise kind(f"{wanted.url} could not be fetched: {reason} ({ATTEMPTS} tries)")


def _pause(attempt: int, wanted: Wanted, reason: str, stop: Event) -> None:
    delay = full_jitter(attempt - 1, random.random(), base=BACKOFF_BASE_SECONDS, ceiling=BACKOFF_CEILING_SECONDS)
    logger.debug("trying %s again in %.1f s: %s", wanted.url, delay, reason)
    stop.wait(delay)


def part_of(wanted: Wanted) -> Path:
    """Where content waits until it is whole."""
    return wanted.target.with_name(f"{wanted.target.name}.part")


def _receive(wanted: Wanted, http: Http) -> None:
    part = part_of(wanted)
    part.parent.mkdir(parents=True, exist_ok=True)
    have = part.stat().st_size if part.exists() and wanted.exact else 0
    if have and have >= wanted.size:
        return
    request = urllib.request.Request(wanted.url, headers={"Range": f"bytes={have}-"} if have else {})
    with urllib.request.urlopen(request, timeout=SOCKET_TIMEOUT_SECONDS, context=http.tls) as response:
        resumed = response.status == _PARTIAL_CONTENT
        if resumed and not str(response.headers.get("Content-Range")).startswith(f"bytes {have}-"):
            part.unlink()
            raise _TryAgainError("the server sent another range than the one asked for")
        if not resumed:
            _require_length(response.headers.get("Content-Length"), wanted)
        with part.open("ab" if resumed else "wb") as file:
            _copy(response, file, wanted, http)


def _require_length(declared: str | None, wanted: Wanted) -> None:
    """A file that the server itself says is too short is another, not one cut off."""
    if wanted.exact and declared is not None and declared.isdecimal() and int(declared) < wanted.size:
        raise _OtherFileError(f"the server has {int(declared)} bytes, expected {wanted.size}")


def _copy(source: IO[bytes], file: IO[bytes], wanted: Wanted, http: Http) -> None:
    room = wanted.size - file.tell()
    while block := source.read(min(BLOCK_BYTES, room + 1)):
        http.received(len(block))
        _require_going(wanted, http.stop)
        room -= len(block)
        if room < 0:
            file.truncate(0)
            raise SpoiltError(f"{wanted.url} has more than the {wanted.size} bytes expected")
        note(wanted.target, file.write(block))


def _require_going(wanted: Wanted, stop: Event) -> None:
    if stop.is_set():
        raise BundleError(f"{wanted.url} was not fetched: the transfer was stopped")


def finish(wanted: Wanted) -> None:
    """Turn the `.part` into the target if it is the wanted content."""
    part = part_of(wanted)
    have = part.stat().st_size
    if wanted.exact and have < wanted.size:
        raise _TryAgainError(f"the connection ended after {have} of {wanted.size} bytes")
    if file_sha256(part) != wanted.sha256:
        part.unlink()
        raise _OtherFileError(f"the content does not have SHA-256 {wanted.sha256}")
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(wanted.target)
    sync_folder(wanted.target.parent)


def _reason_of(error: urllib.error.HTTPError, wanted: Wanted) -> str:
    error.close()
    reason = f"HTTP status {error.code}"
    if error.code == _RANGE_NOT_SATISFIABLE:
        part_of(wanted).unlink(missing_ok=True)
    elif error.code not in _PASSING_STATUSES:
        kind = UnreachableError if error.code >= _SERVER_ERROR else AbsentError
        raise kind(f"{wanted.url} could not be fetched: {reason}") from error
    return reason
