"""A folder of packages as a release's archive: tar under Zstandard, the same bytes from the same files."""

from __future__ import annotations

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import zstandard

LEVEL = 10


@dataclass(frozen=True)
class Archive:
    """An archive's bytes, and the bytes of the files in it."""

    content: bytes
    unpacked: int


def pack(folder: Path) -> Archive:
    """All regular files of a folder, by name; raises `OSError`."""
    stream, unpacked = io.BytesIO(), 0
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as packed:
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            member = tarfile.TarInfo(path.relative_to(folder).as_posix())
            member.size, member.mode = path.stat().st_size, 0o644
            unpacked += member.size
            with path.open("rb") as file:
                packed.addfile(member, file)
    return Archive(zstandard.ZstdCompressor(level=LEVEL).compress(stream.getvalue()), unpacked)
