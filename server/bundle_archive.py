"""A bundle's folder out of an archive that came from outside: .zip, or .tar as it is or compressed.

Only the manifest and the files that it names are taken, each of the size that the manifest says, and all of them
together have an end; what else is in the archive, links and names that lead elsewhere are never looked at. Hashes are
verified by whoever opens the folder.
"""

from __future__ import annotations

import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from server.errors import BundleError
from wire_protocol.bundle_manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, decode_manifest
from wire_protocol.errors import ProtocolError

LARGEST_ARCHIVE = 512 * 1024 * 1024
"""Bytes of an archive, and of what it unpacks to."""
_MOST_MEMBERS = 4096

_UNREADABLE = (ProtocolError, zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError, ValueError)
"""What a spoilt archive makes the two libraries raise, besides `OSError`."""

_Open = Callable[[str], IO[bytes] | None]


def unpack_bundle(archive: Path, folder: Path) -> Path:
    """Make `folder`, which must not be there, the bundle in an archive, and return it; raises `BundleError`."""
    try:
        with _opened(archive) as (names, member):
            root = _root(names)
            manifest = _read(member, root + MANIFEST_NAME, MAX_MANIFEST_BYTES)
            files = decode_manifest(manifest).files
            total = sum(file.size for file in files.values())
            if total > LARGEST_ARCHIVE:
                raise BundleError(f"the bundle's files must have at most {LARGEST_ARCHIVE} bytes, got {total}")
            folder.mkdir()
            (folder / MANIFEST_NAME).write_bytes(manifest)
            for name, file in files.items():
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(_read(member, root + name, file.size))
    except (
        ProtocolError,
        zipfile.BadZipFile,
        tarfile.TarError,
        zlib.error,
        EOFError,
        RuntimeError,
        ValueError,
    ) as error:
        raise BundleError(f"the archive cannot be read as a bundle: {error}") from error
    except (OSError, NotImplementedError) as error:
        raise BundleError(f"the archive cannot be unpacked: {error}") from error
    return folder


@contextmanager
def _opened(archive: Path) -> Iterator[tuple[list[str], _Open]]:
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            yield packed.namelist(), packed.open
        return
    with tarfile.open(archive) as packed:
        regular: dict[str, tarfile.TarInfo] = {}
        for member in packed:
            if len(regular) >= _MOST_MEMBERS or member.offset_data + member.size > LARGEST_ARCHIVE:
                raise BundleError(f"the archive must have at most {_MOST_MEMBERS} files and {LARGEST_ARCHIVE} bytes")
            if member.isreg():
                regular[member.name.removeprefix("./")] = member
        yield list(regular), lambda name: packed.extractfile(regular[name])


def _root(names: list[str]) -> str:
    """What stands before the manifest's name: nothing, or the bundle's folder."""
    if len(names) > _MOST_MEMBERS:
        raise BundleError(f"the archive must have at most {_MOST_MEMBERS} files, got {len(names)}")
    roots = [name.removesuffix(MANIFEST_NAME) for name in names if f"/{name}".endswith(f"/{MANIFEST_NAME}")]
    if len(roots) != 1:
        raise BundleError(f"the archive must hold one {MANIFEST_NAME}, got {len(roots)}")
    return roots[0]


def _read(member: _Open, name: str, most: int) -> bytes:
    try:
        file = member(name)
    except KeyError:
        file = None
    if file is None:
        raise BundleError(f"the archive lacks {name}")
    with file:
        content = file.read(most + 1)
    if len(content) > most:
        raise BundleError(f"{name} in the archive must have at most {most} bytes")
    return content
