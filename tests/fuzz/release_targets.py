"""Targets for releases of the client and promoted models: what comes over the air, and what of it lies on a disk."""

from __future__ import annotations

import io
import shutil
import tarfile
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from random import Random

import zstandard

from devices.releases.archive import pack
from edge_client.errors import ReleaseError
from edge_client.updates.choice import NAME, Choice, load_choice, save_choice
from edge_client.updates.unpacking import unpack
from server.errors import ReleaseError as NoReleaseError
from server.releases.release_file import read_release_file, write_release_file
from tests.fuzz.files import MEGABYTE, empty_folder, file_of, target_of
from tests.fuzz.mutations import of_bytes, of_json
from tests.fuzz.seeds import FLEET, OPERATOR, identity, scratch
from wire_protocol.envelope import Context, sign
from wire_protocol.messages import encode
from wire_protocol.releases import Release

VERSION = "0.2.0"
_CHOICES = (
    Choice(),
    Choice("0.2.0", failed={"0.1.9": 1}),
    Choice("0.2.0").with_trial("0.3.0", 2).started(),
)


_KINDS = (tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.GNUTYPE_SPARSE)
_NAMES = ("../a", "/etc/a", "a/../../b", "a", "x" * 400, "a\n", ".", "edge_client")


def _choice_files() -> Sequence[bytes]:
    contents = []
    for choice in _CHOICES:
        save_choice(empty_folder("releases"), choice)
        contents.append((scratch() / "releases" / NAME).read_bytes())
    return contents


def _choice_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    """Changed bytes, or another table with its right digest."""
    if draw.random() < 0.3:
        return of_bytes(draw, examples, limit)
    text = of_json(draw, [example.partition(b"\n")[2] for example in examples], limit)
    return sha256(text).hexdigest().encode() + b"\n" + text


def _use_choice(content: bytes) -> None:
    """What is found is a choice that can be written, and then reads the same."""
    choice = load_choice(file_of(f"choices/{NAME}", content).parent)
    save_choice(scratch() / "choices", choice)
    if load_choice(scratch() / "choices") != choice:
        raise ValueError("a choice changed when it was written and read again")


@cache
def tree_archive() -> bytes:
    """The archive of a small release."""
    folder = scratch() / "tree"
    for name in ("edge_client/__main__.py", "edge_client/__init__.py", f"fisherfleet-{VERSION}.dist-info/METADATA"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"# {name}\n")
    return pack(folder).content


def _release(archive: bytes) -> Release:
    return Release(
        version=VERSION, system="trixie", python="3.13", architecture="aarch64", sha256=sha256(archive).hexdigest(),
        size=len(archive) or 1, unpacked=100_000,
    )  # fmt: skip


def _archive_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    """Changed bytes, changed bytes of the tar, or a member of another kind or name."""
    way = draw.randrange(3)
    if way == 0:
        return of_bytes(draw, examples, limit)
    content = zstandard.ZstdDecompressor().decompress(draw.choice(examples))
    if way == 1:
        return zstandard.compress(of_bytes(draw, [content], limit))[:limit]
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as packed:
        kind = draw.choice((tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, b"S"))
        member = tarfile.TarInfo(
            draw.choice(("../a", "/etc/a", "a/../../b", "a", "x" * 400, "a\n", ".", "edge_client"))
        )
        member.type, member.linkname = kind, draw.choice(("/etc/passwd", "..", ""))
        member.size = draw.choice((0, 10, 10**12)) if kind == tarfile.REGTYPE else 0
        packed.fileobj.write(member.tobuf())  # type: ignore[union-attr]
        packed.fileobj.write(bytes(512))  # type: ignore[union-attr]
    return zstandard.compress(stream.getvalue())[:limit]


def _unpack(content: bytes) -> None:
    """Nothing is written beside the folder."""
    place = scratch() / "unpacked"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    archive = file_of("some.archive", content)
    try:
        unpack(archive, _release(content), place / "tree")
    finally:
        if {path.name for path in place.iterdir()} - {"tree"}:
            raise AssertionError("an archive wrote beside its folder")


def _release_files() -> Sequence[bytes]:
    path, archive = scratch() / "seed.release", tree_archive()
    signed = sign(encode(_release(archive)), Context("release", FLEET), [identity(OPERATOR)])
    write_release_file(path, signed, archive)
    return [path.read_bytes()]


def _read_release(content: bytes) -> None:
    read_release_file(file_of("some.release", content), FLEET, [identity(OPERATOR).public])


RELEASE_TARGETS = (
    target_of(
        "choice of releases",
        ["edge_client.updates.choice.load_choice"],
        _choice_files,
        _choice_mutant,
        _use_choice,
        None,
    ),
    target_of(
        "archive of a release",
        ["edge_client.updates.unpacking.unpack"],
        lambda: [tree_archive()],
        _archive_mutant,
        _unpack,
        ReleaseError,
        limit=MEGABYTE,
        cost=20,
        times=64,
    ),
    target_of(
        "release file",
        ["server.releases.release_file.read_release_file"],
        _release_files,
        of_bytes,
        _read_release,
        NoReleaseError,
        limit=MEGABYTE,
        cost=4,
    ),
)
