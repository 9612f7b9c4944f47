"""A release's archive, tar under Zstandard, turned into a folder: strictly, and within what its signed words say.

An archive holds regular files and folders with plain relative names and nothing else: no links, devices, owners or
modes of its own; whatever else is in it, it is refused as a whole. Python's byte code is made here and checked against
nothing later, so that a start writes nothing and a power cut leaves no half of it.
"""

from __future__ import annotations

import compileall
import os
import re
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from py_compile import PycInvalidationMode

import zstandard

from edge_client.errors import ReleaseError
from edge_client.updates.launch import version_of
from wire_protocol.releases import Release

MOST_MEMBERS = 20_000
_LONGEST_NAME = 300
_PIECE = r"[A-Za-z0-9_+-][A-Za-z0-9_.+-]*"
_NAME = re.compile(rf"{_PIECE}(/{_PIECE})*")
_BLOCK_BYTES = 256 * 1024
_LARGEST_WINDOW = 2**27
_UNREADABLE = (tarfile.TarError, zstandard.ZstdError, EOFError, ValueError, RecursionError)
_FOLDER_MODE, _FILE_MODE = 0o755, 0o644


def unpack(archive: Path, release: Release, folder: Path) -> None:
    """Make `folder`, which must not be there, what is in the archive; it is on disk when this returns.

    Raises `ReleaseError` for an archive that is not legal or not of this release, and `OSError` where the disk fails.
    """
    folder.mkdir(_FOLDER_MODE)
    try:
        with archive.open("rb") as packed:
            reader = zstandard.ZstdDecompressor(max_window_size=_LARGEST_WINDOW).stream_reader(packed)
            with reader, tarfile.open(fileobj=reader, mode="r|") as members:
                _extract(members, release, folder)
    except (*_UNREADABLE, FileExistsError, NotADirectoryError) as error:
        raise ReleaseError(f"the archive of release {release.version} cannot be read: {error}") from error
    if version_of(folder) != release.version or not (folder / "edge_client" / "__main__.py").is_file():
        raise ReleaseError(f"the archive does not hold release {release.version}, but {version_of(folder)!r:.50}")
    compileall.compile_dir(folder, quiet=2, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
    os.sync()


def _extract(members: tarfile.TarFile, release: Release, folder: Path) -> None:
    room = release.unpacked
    for count, member in enumerate(_checked(members, release)):
        room -= member.size
        if room < 0 or count >= MOST_MEMBERS:
            most = f"{release.unpacked} bytes and {MOST_MEMBERS} files"
            raise ReleaseError(f"the archive of release {release.version} holds more than {most}")
        target = folder / member.name
        if member.isdir():
            target.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            continue
        target.parent.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
        content = members.extractfile(member)
        assert content is not None, "a regular file has content"
        with target.open("xb") as file:
            shutil.copyfileobj(content, file, _BLOCK_BYTES)
        if target.stat().st_size != member.size:
            raise ReleaseError(f"the archive of release {release.version} ends in the midst of {member.name}")
        target.chmod(_FILE_MODE)


def _checked(members: tarfile.TarFile, release: Release) -> Iterator[tarfile.TarInfo]:
    for member in members:
        legal = len(member.name) <= _LONGEST_NAME and _NAME.fullmatch(member.name)
        if not legal or not (member.isreg() or member.isdir()) or member.sparse:
            what = f"{member.name!r:.100} of kind {member.type!r}"
            raise ReleaseError(f"the archive of release {release.version} holds {what}: only plain files are legal")
        yield member
