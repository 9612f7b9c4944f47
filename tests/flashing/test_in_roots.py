"""The .deb and the bundle in real roots of Debian: installed, a round trained as the service would, taken away again.

Those for 64-bit ARM run in qemu's user emulation, which says whether something works and nothing about how fast.
"""

from __future__ import annotations

import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from devices.flashing.device_folder import SERVICE_USER, STATE_FOLDER, device_files
from devices.flashing.systems import SYSTEMS, System
from tests.flashing.chroot import Chroot
from tests.flashing.one_round import one_round
from tests.flashing.unpacked_bundle import unpacked_bundle

MakeRoot = Callable[[System], Chroot]
MakePackage = Callable[[System], Path]

UNIT = "usr/lib/systemd/system/fisherfleet-edge.service"
STATE = str(STATE_FOLDER)[1:]
ARM = [pytest.param(SYSTEMS[name], id=name, marks=pytest.mark.arm64) for name in ("bookworm", "trixie")]
LEFT_UNTIL_PURGED = {"etc/systemd/system/multi-user.target.wants/fisherfleet-edge.service"}
"""As with all packages of Debian's that have a service: it stays enabled for when they are installed again."""


def give(root: Chroot, device: Path) -> None:
    """Put a device's folder where the service expects it, as docs/raspberry-pi.md says."""
    arrived = root.path / "tmp" / "device"
    shutil.copytree(device, arrived)
    root.run("sh", "-c", f"cp -r /tmp/device/* {STATE_FOLDER}/ && chown -R {SERVICE_USER}: {STATE_FOLDER}")
    shutil.rmtree(arrived)


def require_service(root: Chroot) -> None:
    """The user is there, the unit is enabled and systemd takes it, and the state folder is the user's alone."""
    assert SERVICE_USER in root.users()
    assert "enabled" in root.run("systemctl", "is-enabled", "fisherfleet-edge.service")
    verify = ["systemd-analyze", f"--root={root.path}", "--man=no", "verify", "fisherfleet-edge.service"]
    verified = subprocess.run(verify, capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stderr
    status = (root.path / STATE).stat()
    assert stat.S_IMODE(status.st_mode) == 0o700
    assert f":{status.st_uid}:{status.st_gid}:" in (root.path / "etc/passwd").read_text()


def require_programs_are_roots(root: Chroot) -> None:
    """Nobody but root writes to what is installed."""
    for path in ((root.path / "opt/fisherfleet-edge"), *(root.path / "opt/fisherfleet-edge").rglob("*")):
        status = path.lstat()
        assert (status.st_uid, status.st_gid, status.st_mode & 0o022) == (0, 0, 0), path


@pytest.mark.parametrize("system", ARM)
async def test_a_package_from_installation_to_purge(
    system: System,
    make_root: MakeRoot,
    make_package: MakePackage,
    perceptron: Path,
    tmp_path: Path,
) -> None:
    root, package = make_root(system), make_package(system)
    before, users = root.files(), root.users()
    shutil.copyfile(package, root.path / "tmp" / package.name)
    root.run("dpkg", "--install", f"/tmp/{package.name}")
    require_service(root)
    require_programs_are_roots(root)
    async with one_round(tmp_path, perceptron) as waiting:
        give(root, waiting.device)
        await waiting.train(root.service(UNIT), tmp_path / "device.log")
    root.run("dpkg", "--remove", "fisherfleet-edge")
    assert root.files() - before >= {f"{STATE}/identity/device.key"}
    assert {path for path in root.files() - before if not path.startswith(STATE)} <= LEFT_UNTIL_PURGED
    root.run("dpkg", "--purge", "fisherfleet-edge")
    assert root.files() == before
    assert root.users() == users


@pytest.mark.parametrize("system", ARM)
def test_a_bundle_from_installation_to_purge(system: System, make_root: MakeRoot, device: Path) -> None:
    root = make_root(system)
    before, users = root.files(), root.users()
    bundle = unpacked_bundle(device, system, root.path / "tmp")
    said = root.run("sh", f"/tmp/{bundle.name}/install.sh")
    require_service(root)
    require_programs_are_roots(root)
    for file in device_files(device):
        status = (root.path / STATE / file.name).stat()
        assert (root.path / STATE / file.name).read_bytes() == file.source.read_bytes()
        assert stat.S_IMODE(status.st_mode) == 0o600
        assert status.st_uid != 0
        assert file.source.read_text(errors="replace") not in said
    assert "usage" in root.run("fisherfleet-edge", "--help")
    root.run("fisherfleet-edge-uninstall", "--purge")
    assert root.files() == before
    assert root.users() == users
