"""Small releases of the client: their trees, archives and signed words."""

import platform
import sys
from hashlib import sha256
from pathlib import Path

from devices.releases.archive import pack
from tests.fleet_keys import FLEET, signed
from wire_protocol.envelope import Context
from wire_protocol.releases import Release

PYTHON = f"3.{sys.version_info.minor}"
MAIN = "def main(words):\n    print({version!r}, *words)\n    return 0\n"


def write_tree(folder: Path, version: str, main: str = MAIN, runner: str = "") -> Path:
    """The packages of a release that prints its version."""
    files = {
        "edge_client/__init__.py": "",
        "edge_client/__main__.py": main.format(version=version),
        "edge_client/runner.py": runner,
        f"fisherfleet-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\nName: fisherfleet\nVersion: {version}\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def release_of(archive: bytes, version: str, unpacked: int = 100_000, **changes: str) -> Release:
    values = {"system": "trixie", "python": PYTHON, "architecture": platform.machine()} | changes
    digest = sha256(archive).hexdigest()
    return Release(version=version, sha256=digest, size=len(archive), unpacked=unpacked, **values)


def archive_of(folder: Path, version: str, **sources: str) -> bytes:
    return pack(write_tree(folder / f"tree-{version}", version, **sources)).content


def signed_release(release: Release) -> bytes:
    return signed(release, Context("release", FLEET))
