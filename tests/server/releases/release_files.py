"""Releases as an operator makes them."""

from hashlib import sha256
from pathlib import Path

from server.operator_keys import Operator
from server.releases.release_file import SignedRelease, write_release_file
from wire_protocol.envelope import Context, sign
from wire_protocol.messages import encode
from wire_protocol.releases import Release


def a_release(version: str = "0.2.0", system: str = "trixie", content: bytes = b"packages") -> Release:
    return Release(
        version=version, system=system, python="3.13", architecture="aarch64", sha256=sha256(content).hexdigest(),
        size=len(content), unpacked=100,
    )  # fmt: skip


def signed(operator: Operator, release: Release) -> SignedRelease:
    return SignedRelease(release, sign(encode(release), Context("release", operator.fleet), operator.identities))


def release_file(folder: Path, operator: Operator, release: Release, content: bytes = b"packages") -> Path:
    path = folder / f"{release.version}-{release.system}.release"
    write_release_file(path, signed(operator, release).signed, content)
    return path
