"""Roots of Debian, the client's packages for them, and a model to train.

Tests marked arm64 need mmdebstrap and qemu-user, or an ARM machine, and to be root; elsewhere they are skipped, but
where FISHERFLEET_REQUIRE_ARM64 is set they fail.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from devices.flashing.caches import cache_folder
from devices.flashing.debian_package import build_package
from devices.flashing.systems import System
from tests.flashing.chroot import Chroot
from tests.flashing.debian_roots import debian_root
from tests.flashing.one_round import provision

REQUIRE_ARM64 = "FISHERFLEET_REQUIRE_ARM64"
ROOT = Path(__file__).parents[2]
_RELEASE = {"deb12": "bookworm", "deb13": "trixie"}


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip what cannot run here."""
    if item.get_closest_marker("arm64") is not None and not os.environ.get(REQUIRE_ARM64):
        emulated = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64").exists()
        if not (emulated or platform.machine() == "aarch64"):
            pytest.skip("needs qemu-user-static, to run programs of 64-bit ARM")


@pytest.fixture(scope="session")
def make_root(tmp_path_factory: pytest.TempPathFactory) -> Callable[[System], Chroot]:
    """Unpacks a root of a system's, a new one each time."""
    if not os.environ.get(REQUIRE_ARM64) and (shutil.which("mmdebstrap") is None or os.geteuid() != 0):
        pytest.skip("needs mmdebstrap, and to be root")

    def make(system: System) -> Chroot:
        path = tmp_path_factory.mktemp("root")
        path.chmod(0o755)
        with tarfile.open(debian_root(_RELEASE[system.release], system.debian_architecture)) as tar:
            tar.extractall(path, filter="fully_trusted")
        return Chroot(path)

    return make


@pytest.fixture(scope="session")
def make_package(tmp_path_factory: pytest.TempPathFactory) -> Callable[[System], Path]:
    """Makes a system's .deb, once."""
    folder = tmp_path_factory.mktemp("packages")
    made: dict[str, Path] = {}

    def make(system: System) -> Path:
        if system.name not in made:
            made[system.name] = build_package(system, folder, cache_folder(), lambda line: None)
        return made[system.name]

    return make


@pytest.fixture(scope="session")
def perceptron(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that trains images of 8 x 8 pixels."""
    bundle = tmp_path_factory.mktemp("bundle") / "bundle"
    export = ["-m", "devices.command_line", "export", "mlp", "--input", "1,8,8", "--out", str(bundle)]
    subprocess.run([sys.executable, *export], check=True, cwd=ROOT, capture_output=True)
    return bundle


@pytest.fixture
def device(tmp_path: Path) -> Path:
    """A device's folder, of a fleet that nobody serves."""
    return provision(tmp_path / "fleet", "mqtt://127.0.0.1:1", "http://127.0.0.1:2")
