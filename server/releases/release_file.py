"""A release of the client as one file, which `fisherfleet devices make-release` writes and a server takes.

A tar of two members, in this order: `release`, the signed `Release`, and `archive`, whose SHA-256 and size it has.
Nothing else is legal, so that what was read is what was signed.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import IO

from server.errors import ReleaseError
from wire_protocol.envelope import Context, verify
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import PublicKeys
from wire_protocol.messages import LARGEST_HEADER, decode
from wire_protocol.releases import MAX_ARCHIVE_BYTES, Release

LARGEST_FILE = MAX_ARCHIVE_BYTES + 64 * 1024
_SIGNED, _ARCHIVE = "release", "archive"


@dataclass(frozen=True)
class SignedRelease:
    """What is said of a release, as it was signed and as it is read."""

    release: Release
    signed: bytes


def write_release_file(path: Path, signed: bytes, archive: bytes) -> None:
    """Write the file anew; the same content gives the same bytes. Raises `OSError`."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as packed:
        for name, content in ((_SIGNED, signed), (_ARCHIVE, archive)):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            packed.addfile(member, io.BytesIO(content))


def read_release_file(path: Path, fleet: str, trusted: Sequence[PublicKeys]) -> tuple[SignedRelease, bytes]:
    """The release and its archive, where one of the trusted keys signed it for the fleet; raises `ReleaseError`."""
    try:
        with tarfile.open(path, "r:") as packed:
            signed = _member(packed, _SIGNED, LARGEST_HEADER)
            release = decode(verify(signed, Context("release", fleet), trusted), Release)
            archive = _member(packed, _ARCHIVE, release.size)
    except (ProtocolError, tarfile.TarError, EOFError, ValueError) as error:
        raise ReleaseError(f"not a release of this fleet: {error}") from error
    except OSError as error:
        raise ReleaseError(f"the release cannot be read: {error.strerror}") from error
    if (len(archive), sha256(archive).hexdigest()) != (release.size, release.sha256):
        raise ReleaseError(f"the archive is not the one that was signed as release {release.version}")
    return SignedRelease(release, signed), archive


def _member(packed: tarfile.TarFile, name: str, most: int) -> bytes:
    member = packed.next()
    if member is None or member.name != name or not member.isreg() or member.size > most:
        raise ReleaseError(f"the file must have a member {name} of at most {most} bytes next")
    content: IO[bytes] | None = packed.extractfile(member)
    assert content is not None, "a regular member has content"
    return content.read()
