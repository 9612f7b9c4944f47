"""install.sh and uninstall.sh of a bundle, and dpkg's upgrade, in a root for this machine's own processor."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from devices.flashing.systems import SYSTEMS, System
from tests.flashing.chroot import Chroot
from tests.flashing.one_round import provision
from tests.flashing.unpacked_bundle import unpacked_bundle

SYSTEM = SYSTEMS["bookworm-x86-64"]
STATE = "var/lib/fisherfleet-edge"
KEY = f"{STATE}/identity/device.key"

pytestmark = pytest.mark.skipif(platform.machine() != SYSTEM.machine, reason="runs programs for x86-64")


@pytest.fixture(scope="module")
def whole_root(make_root: Callable[[System], Chroot]) -> Chroot:
    return make_root(SYSTEM)


@pytest.fixture(scope="module")
def install(whole_root: Chroot, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The bundle's installer, as a path in the root."""
    device = provision(tmp_path_factory.mktemp("fleet") / "fleet", "mqtt://127.0.0.1:1", "http://127.0.0.1:2")
    return f"/tmp/{unpacked_bundle(device, SYSTEM, whole_root.path / 'tmp').name}/install.sh"


@pytest.fixture
def root(whole_root: Chroot, install: str) -> Iterator[Chroot]:
    """The root with nothing installed; tests begin and end so."""
    before = whole_root.files()
    yield whole_root
    if (whole_root.path / "usr/bin/fisherfleet-edge-uninstall").exists():
        whole_root.run("fisherfleet-edge-uninstall", "--purge")
    assert whole_root.files() == before


@contextmanager
def appended(path: Path, text: str) -> Iterator[None]:
    before = path.read_text()
    path.write_text(before + text)
    yield
    path.write_text(before)


def test_installing_again_changes_the_client_and_keeps_what_the_device_has_made(root: Chroot, install: str) -> None:
    root.run("sh", install)
    once = root.files()
    kept, code = root.path / STATE / "state" / "residual", root.path / "opt/fisherfleet-edge/site-packages/edge_client"
    kept.parent.mkdir()
    kept.write_text("what no bundle has")
    (code / "config.py").write_text("an older client")
    (code / "of_an_older_client.py").write_text("")
    root.run("sh", install)
    assert root.files() == once | {f"{STATE}/state", f"{STATE}/state/residual"}
    assert "an older client" not in (code / "config.py").read_text()


def test_uninstalling_leaves_the_device_its_keys_and_the_next_installation_takes_them_up(
    root: Chroot, install: str
) -> None:
    root.run("sh", install)
    key = (root.path / KEY).read_bytes()
    assert STATE in root.run("fisherfleet-edge-uninstall")
    assert {path for path in root.files() if "fisherfleet" in path and not path.startswith((STATE, "tmp"))} == set()
    root.run("sh", install)
    assert (root.path / KEY).read_bytes() == key


def test_another_device_is_not_put_in_the_place_of_one(root: Chroot, install: str, tmp_path: Path) -> None:
    root.run("sh", install)
    key = (root.path / KEY).read_bytes()
    other = provision(tmp_path / "other", "mqtt://127.0.0.1:1", "http://127.0.0.1:2")
    config = (other / "device.toml").read_text()
    (other / "device.toml").write_text(config.replace('"kitchen"', '"cellar"'))
    again = unpacked_bundle(other.rename(other.with_name("cellar")), SYSTEM, root.path / "tmp")
    said = root.run("sh", f"/tmp/{again.name}/install.sh", status=2)
    assert "is the device kitchen already, and the bundle is for cellar" in said
    assert (root.path / KEY).read_bytes() == key


def test_a_device_that_has_enrolled_is_not_enrolled_again(root: Chroot, tmp_path: Path) -> None:
    folder = tmp_path / "kitchen"
    folder.mkdir()
    (folder / "enrol.toml").write_text('device = "kitchen"\nserver = "http://127.0.0.1:2"\ntoken = "ffe_x"\n')
    install = f"/tmp/{unpacked_bundle(folder, SYSTEM, root.path / 'tmp').name}/install.sh"
    said = root.run("sh", install)
    assert "ffe_x" not in said
    token = root.path / STATE / "enrol.toml"
    assert token.exists()
    token.rename(token.with_name("device.toml"))
    root.run("sh", install)
    assert not token.exists()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("machine=riscv64\n", "this bundle is for riscv64, this machine is x86_64"),
        ("python=3.9\n", "with Python 3.9, /usr/bin/python3 is 3.11: make one for this system"),
    ],
)
def test_a_machine_that_the_bundle_is_not_for_is_left_as_it_is(
    root: Chroot, install: str, line: str, words: str
) -> None:
    with appended(root.path / Path(install[1:]).parent / "system", line):
        assert words in root.run("sh", install, status=2)


def test_without_systemd_or_as_another_user_nothing_is_installed(root: Chroot, install: str) -> None:
    (root.path / "tmp").chmod(0o755)
    assert "must be run as root" in root.run("setpriv", "--reuid=1", "sh", install, status=2)
    here, away = root.path / "usr/bin/systemctl", root.path / "tmp/systemctl"
    here.rename(away)
    assert "needs systemd, and systemctl is not here" in root.run("sh", install, status=2)
    away.rename(here)


def test_an_installed_package_is_not_overwritten_and_an_upgrade_keeps_the_device(
    root: Chroot, install: str, make_package: Callable[[System], Path]
) -> None:
    shutil.copy(make_package(SYSTEM), root.path / "tmp" / "client.deb")
    root.run("dpkg", "--install", "/tmp/client.deb")
    assert "update that, or remove it first" in root.run("sh", install, status=2)
    mine = root.path / STATE / "device.toml"
    mine.write_text("mine")
    once = root.files()
    root.run("systemctl", "disable", "fisherfleet-edge.service")
    root.run("dpkg", "--install", "/tmp/client.deb")
    assert root.files() == once - {"etc/systemd/system/multi-user.target.wants/fisherfleet-edge.service"}
    assert mine.read_text() == "mine"
    root.run("dpkg", "--purge", "fisherfleet-edge")
