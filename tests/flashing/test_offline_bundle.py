"""The bundle's file: what is in it, and whose eyes it is for."""

from __future__ import annotations

import stat
import tarfile
from pathlib import Path

import pytest

from devices.command_line import main
from devices.errors import FlashError
from devices.flashing.caches import cache_folder
from devices.flashing.device_folder import device_files
from devices.flashing.offline_bundle import build_bundle
from devices.flashing.systems import SYSTEMS

SYSTEM = SYSTEMS["bookworm-x86-64"]


def test_it_holds_the_device_for_its_owner_s_eyes_and_is_the_same_again(
    device: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (device / "state").mkdir()
    (device / "state" / "ledger.db").write_text("what the device did elsewhere")
    out = tmp_path / "kitchen.tar"
    assert main(["devices", "flash", "bundle", str(device), "--system", SYSTEM.name, "--out", str(out)]) == 0
    said = capsys.readouterr()
    assert "sudo sh fisherfleet-edge-kitchen/install.sh" in said.out
    assert ("has no data.npz" in said.err) is not (device / "data.npz").exists()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    with tarfile.open(out) as tar:
        members = {member.name.removeprefix("fisherfleet-edge-kitchen"): member for member in tar}
    own = {name: member for name, member in members.items() if name.startswith("/device")}
    assert {name for name, one in own.items() if one.isfile()} == {
        f"/device/{one.name}" for one in device_files(device)
    }
    assert {one.mode for one in own.values()} == {0o600, 0o700}
    assert all(one.isfile() or one.isdir() for one in members.values())
    assert {(one.uid, one.gid, one.uname) for one in members.values()} == {(0, 0, "root")}
    assert {name for name, one in members.items() if one.isfile() and one.mode & 0o100} == {
        "/install.sh", "/uninstall.sh", "/client/usr/bin/fisherfleet-edge",
    }  # fmt: skip
    again = tmp_path / "again.tar"
    build_bundle(device, SYSTEM, again, cache_folder(), lambda line: None)
    assert again.read_bytes() == out.read_bytes()
    again.unlink()
    out.unlink()


def test_what_makes_no_device_is_refused(device: Path, tmp_path: Path) -> None:
    with pytest.raises(FlashError, match="nowhere is not there"):
        device_files(tmp_path / "nowhere")
    token = device / "enrol.toml"
    token.write_text("")
    with pytest.raises(FlashError, match="both are there"):
        device_files(device)
    token.unlink()
    (device / "ca.pem").symlink_to("/etc/shadow")
    with pytest.raises(FlashError, match=r"ca\.pem must be a plain file"):
        device_files(device)
    (device / "ca.pem").unlink()
    (device / "identity" / "device.key").unlink()
    with pytest.raises(FlashError, match=r"has no device\.key"):
        device_files(device)
    (device / "device.toml").unlink()
    with pytest.raises(FlashError, match="neither is there"):
        device_files(device)


def test_a_place_that_cannot_be_written_is_named(device: Path) -> None:
    with pytest.raises(FlashError, match=r"/proc/kitchen\.tar cannot be written"):
        build_bundle(device, SYSTEM, Path("/proc/kitchen.tar"), cache_folder(), lambda line: None)
