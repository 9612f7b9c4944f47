"""The client's packages for systems that are not this machine's."""

from __future__ import annotations

import shutil
import struct
from dataclasses import replace
from pathlib import Path

import pytest

from devices.errors import FlashError
from devices.flashing.caches import cache_folder
from devices.flashing.client_packages import client_packages, locked_requirements
from devices.flashing.client_tree import write_site_packages
from devices.flashing.systems import SYSTEMS, TOO_OLD, System, system_named
from tests.flashing.one_round import one_round

JETPACK = SYSTEMS["jetpack6"]
JETPACK_ON_A_PC = replace(JETPACK, name="jetpack6-x86-64", machine="x86_64")
MOST_PACKAGES, MOST_BYTES = 12, 160_000_000
ELF_MACHINES = {"aarch64": 183, "x86_64": 62}
RUN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from edge_client.__main__ import main; sys.exit(main())"


def silent(line: str) -> None:
    """Say nothing."""


def python_of(version: str) -> Path | None:
    """An interpreter of that version, of the system's or of pyenv's."""
    kept = sorted((Path.home() / ".pyenv" / "versions").glob(f"{version}.*/bin/python"))
    found = [Path(f"/usr/bin/python{version}"), *kept]
    return next((path for path in found if path.exists()), None)


def elf_machine(library: Path) -> int:
    (machine,) = struct.unpack_from("<H", library.read_bytes()[:20], 18)
    return int(machine)


def test_markers_are_the_target_s_and_not_this_machine_s(tmp_path: Path) -> None:
    locked = tmp_path / "requirements.txt"
    locked.write_text(
        "# pins\n"
        'arm==1 ; platform_machine == "aarch64"\n'
        'old==2 ; python_version < "3.11"\n'
        'new==3 ; python_full_version >= "3.11.0"\n'
        'windows==4 ; sys_platform == "win32"\n'
        "all==5\n"
    )
    assert locked_requirements(JETPACK, locked) == ("arm==1", "old==2", "all==5")
    assert locked_requirements(SYSTEMS["trixie-x86-64"], locked) == ("new==3", "all==5")


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=SYSTEMS)
def test_a_device_has_few_packages(system: System) -> None:
    names = [line.partition("==")[0] for line in locked_requirements(system)]
    assert len(names) == len(set(names)) <= MOST_PACKAGES - 1
    assert {"onnxruntime", "numpy", "cryptography"} <= set(names)


def test_platforms_are_those_that_the_system_s_c_library_runs() -> None:
    platforms = SYSTEMS["bookworm"].platforms
    assert platforms[0] == "manylinux_2_36_aarch64"
    assert platforms[-2:] == ("manylinux_2_17_aarch64", "manylinux2014_aarch64")


@pytest.mark.parametrize("name", [*TOO_OLD, "windows"])
def test_a_system_that_cannot_be_served_is_refused_with_the_reason(name: str) -> None:
    with pytest.raises(FlashError, match="too old: its Python is" if name in TOO_OLD else "must be one of bookworm, "):
        system_named(name)


@pytest.mark.parametrize("system", [JETPACK, SYSTEMS["trixie"]], ids=lambda system: system.name)
def test_every_library_is_for_the_system_s_processor_and_python(system: System, tmp_path: Path) -> None:
    folder = tmp_path / "site-packages"
    write_site_packages(system, folder, cache_folder(), silent)
    libraries = [path for path in folder.rglob("*") if ".so" in path.suffixes]
    tag = f"cpython-{system.python.replace('.', '')}-{system.machine}"
    assert {elf_machine(path) for path in libraries} == {ELF_MACHINES[system.machine]}
    assert {path.name.split(".")[1][: len(tag)] for path in libraries if ".cpython-" in path.name} == {tag}
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < MOST_BYTES
    assert not [path for path in folder.rglob("*") if path.name in ("tests", "__pycache__", "bin")]


def test_without_an_index_the_error_says_what_to_do_and_nothing_half_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said: list[str] = []
    with pytest.raises(FlashError, match=r"pip cannot have .* for jetpack6: .*PIP_INDEX_URL") as refused:
        client_packages(JETPACK, tmp_path, said.append)
    assert "\n" not in str(refused.value)
    assert len(said) == 1
    assert list((tmp_path / "client-packages").iterdir()) == []


def test_what_is_kept_needs_no_index(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = client_packages(JETPACK, cache_folder(), silent)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said: list[str] = []
    assert client_packages(JETPACK, cache_folder(), said.append) == kept
    assert said == []


async def test_a_round_with_jetpack_s_versions_on_python_3_10(perceptron: Path, tmp_path: Path) -> None:
    python = python_of(JETPACK.python)
    if python is None:
        pytest.skip(f"needs Python {JETPACK.python}")
    folder = tmp_path / "site-packages"
    write_site_packages(JETPACK_ON_A_PC, folder, cache_folder(), silent)
    async with one_round(tmp_path, perceptron) as waiting:
        config = waiting.device / "device.toml"
        await waiting.train([python, "-I", "-c", RUN, folder, "--config", config], tmp_path / "device.log")
    shutil.rmtree(folder)
