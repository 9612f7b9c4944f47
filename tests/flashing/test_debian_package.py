"""The .deb: the same bytes again, and nothing in it that is not root's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from devices.command_line import main
from devices.errors import FlashError
from devices.flashing.caches import cache_folder
from devices.flashing.client_tree import ON_DEVICE
from devices.flashing.debian_package import SCRIPTS, build_package
from devices.flashing.systems import SYSTEMS, System

SYSTEM = SYSTEMS["bookworm-x86-64"]
ROOT = Path(__file__).parents[2]
BUILT_FROM = ("devices", "edge_client", "wire_protocol", "model_export", "server", "deploy")


def said_by(*command: object) -> str:
    return subprocess.run(list(map(str, command)), capture_output=True, text=True, check=True).stdout


def test_the_same_sources_make_the_same_bytes(
    make_package: Callable[[System], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    mask = os.umask(0o077)
    try:
        again = build_package(SYSTEM, tmp_path, cache_folder(), lambda line: None)
    finally:
        os.umask(mask)
    assert again.read_bytes() == make_package(SYSTEM).read_bytes()
    again.unlink()


def test_it_says_what_it_needs_and_holds_root_s_files_alone(make_package: Callable[[System], Path]) -> None:
    package = make_package(SYSTEM)
    needs = said_by("dpkg-deb", "--field", package, "Depends")
    assert "python3 (>= 3.11), python3 (<< 3.12)" in needs
    held = said_by("dpkg-deb", "--contents", package).splitlines()
    assert {line.split()[1] for line in held} == {"root/root"}
    modes = {line.split()[0] for line in held}
    assert modes == {"drwxr-xr-x", "-rw-r--r--", "-rwxr-xr-x"}
    assert [line.split()[-1] for line in held if line.startswith("-rwx")] == ["./usr/bin/fisherfleet-edge"]
    assert "conffiles" not in said_by("dpkg-deb", "--info", package)


def test_versions_rise_with_the_system_s_release(make_package: Callable[[System], Path]) -> None:
    newer = SYSTEMS["trixie"].release
    version = said_by("dpkg-deb", "--field", make_package(SYSTEM), "Version").strip()
    subprocess.run(["dpkg", "--compare-versions", version, "lt", version.replace(SYSTEM.release, newer)], check=True)


def test_without_dpkg_the_error_says_where_to_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FlashError, match="dpkg-deb is not installed here"):
        build_package(SYSTEM, tmp_path, cache_folder(), lambda line: None)


def test_the_command_refuses_an_old_system_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["devices", "flash", "package", "--system", "jetpack5"]) == 2
    said = capsys.readouterr().err
    assert "jetpack5 is too old: its Python is 3.8" in said
    assert said.count("\n") == 1


def test_its_scripts_are_plain_shell() -> None:
    shellcheck = shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("needs shellcheck")
    scripts = [*(ON_DEVICE / "debian" / name for name in SCRIPTS), *(ON_DEVICE / "bundle").glob("*.sh")]
    assert len(scripts) == 5
    subprocess.run([shellcheck, *scripts], check=True)


def test_an_installed_fisherfleet_has_all_that_goes_to_devices(tmp_path: Path) -> None:
    for name in BUILT_FROM:
        ignored = shutil.ignore_patterns("__pycache__", "vendor", "static")
        shutil.copytree(ROOT / name, tmp_path / name, symlinks=True, ignore=ignored)
    for name in ("pyproject.toml", "README.md", "LICENSE", "requirements-edge.txt"):
        shutil.copy(ROOT / name, tmp_path)
    program = (
        "import setuptools, sys; from setuptools.build_meta import build_wheel\n"
        f"from zipfile import ZipFile; made = ZipFile({str(tmp_path)!r} + '/' + build_wheel({str(tmp_path)!r}))\n"
        "sys.stderr.write('\\n'.join(f'{made.getinfo(name).file_size} {name}' for name in made.namelist()))"
    )
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    sizes = {line.split()[1]: int(line.split()[0]) for line in done.stderr.splitlines() if line[:1].isdigit()}
    here = [path for path in ON_DEVICE.rglob("*") if path.is_file()]
    assert len(here) == 9
    for path in here:
        assert sizes[f"devices/flashing/{path.relative_to(ON_DEVICE.parent)}"] == path.stat().st_size
