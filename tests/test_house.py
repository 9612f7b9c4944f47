"""The rules of the house that no linter holds."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import SLOW, TESTS

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnx", "fastapi", "scipy", "sklearn", "matplotlib", "sqlalchemy", "uvicorn")
PIN = re.compile(r"[A-Za-z0-9_.-]+==[A-Za-z0-9.+]+( ; .+)?")


@pytest.mark.parametrize(
    "modules",
    ["edge_client", "edge_client.__main__, edge_client.runner, edge_client.training.portable, edge_client.fisher"],
)
def test_a_device_never_loads_heavy_modules(modules: str) -> None:
    program = f"import sys, {modules}; print(*sorted({{m.partition('.')[0] for m in sys.modules}}))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert set(HEAVY).isdisjoint(done.stdout.split())


def test_import_time_of_edge_client_names_nothing_heavy() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-c", "import edge_client"], capture_output=True, text=True, check=True
    )
    loaded = {line.split("|")[-1].strip().partition(".")[0] for line in done.stderr.splitlines()}
    assert "edge_client" in loaded
    assert set(HEAVY).isdisjoint(loaded)


def test_what_is_left_out_of_quick_tests_is_there() -> None:
    assert [name for name in SLOW if not (TESTS / name).exists()] == []


@pytest.mark.parametrize("part", ["edge", "server", "dev", "benchmarks", "ray"])
def test_requirements_are_pinned(part: str) -> None:
    path = ROOT / f"requirements-{part}.txt"
    lines = [line for line in path.read_text().splitlines() if line and not line.startswith(("#", "-r "))]
    assert lines
    assert [line for line in lines if not PIN.fullmatch(line)] == []


def test_both_onnxruntimes_never_meet_in_one_environment() -> None:

    lines = (ROOT / "requirements-server.txt").read_text().splitlines()
    runtimes = [Requirement(line) for line in lines if line.startswith("onnxruntime")]
    for machine in ("x86_64", "aarch64", "arm64"):
        for python in ("3.11", "3.12", "3.13"):
            place = {"platform_machine": machine, "python_version": python}
            chosen = [r.name for r in runtimes if r.marker is None or r.marker.evaluate(place)]
            expected = "onnxruntime-training-cpu" if (machine, python < "3.13") == ("x86_64", True) else "onnxruntime"
            assert chosen == [expected]


def test_the_server_side_of_the_house_stays_out_of_the_edge_requirements() -> None:
    names = {re.split(r"[= ]", line)[0].lower() for line in (ROOT / "requirements-edge.txt").read_text().splitlines()}
    assert names.isdisjoint(HEAVY)
