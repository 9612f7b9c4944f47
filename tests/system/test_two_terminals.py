"""README, "Your own broker": `fisherfleet serve` and `fisherfleet-edge` by hand, each in an environment of its own.

The devices run in the environment of requirements-edge.txt, which has stock onnxruntime and nothing of the server.
"""

import asyncio
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from devices.emulation.broker import embedded_broker

ROOT = Path(__file__).parents[2]
EDGE = ROOT / ".venv-edge" / "bin"
RESIDENT_LIMIT_MB = 150


@pytest.fixture
async def broker(tmp_path: Path) -> AsyncIterator[str]:
    async with embedded_broker(tmp_path / "broker") as url:
        yield str(url)


@pytest.fixture
def edge() -> Path:
    if not (EDGE / "fisherfleet-edge").exists():
        pytest.fail("no device environment: run `make install-edge`, or `make test`, which does")
    return EDGE


@contextmanager
def running(*command: object, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)


def fisherfleet(*arguments: object) -> list[object]:
    return [sys.executable, "-m", "devices.command_line", *arguments]


def peak_resident_mb(process: subprocess.Popen[bytes]) -> float:
    status = Path(f"/proc/{process.pid}/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status).group(1)) * 1024 / 1e6


async def counted(updates: int, *logs: Path) -> None:
    """Wait until each device has read the last receipt, which the server sends just before it ends."""
    async with asyncio.timeout(30):
        while any(log.read_text().count("counted by the server") < updates for log in logs):
            await asyncio.sleep(0.05)


def test_the_edge_environment_has_no_server_package(edge: Path) -> None:
    program = "import importlib.metadata as m; print(*sorted(d.name.lower() for d in m.distributions()))"
    names = subprocess.run([edge / "python", "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "onnxruntime" in names
    assert {"torch", "onnx", "fastapi", "onnxruntime-training-cpu", "scikit-learn"}.isdisjoint(names)


async def test_serve_and_two_devices_by_hand(edge: Path, broker: str, tmp_path: Path) -> None:
    bundle, fleet, state = tmp_path / "bundle", tmp_path / "fleet", tmp_path / "state"
    port = _free_port()
    subprocess.run(fisherfleet("export", "lenet", "--input", "1,8,8", "--out", bundle), check=True, cwd=ROOT)
    example = ROOT / "examples" / "digits_for_two_devices.py"
    subprocess.run([sys.executable, example, fleet, broker, f"http://127.0.0.1:{port}"], check=True, cwd=ROOT)
    serve = fisherfleet("serve", "--bundle", bundle, "--broker", broker, "--port", port, "--state", state)
    options = ["--fleet", fleet, "--test", fleet / "test.npz", "--min-devices", 2, "--rounds", 30, "--privacy", "none"]
    training = ["--local-steps", 50, "--learning-rate", 0.2, "--batch-size", 16]
    with (
        running(*serve, *options, *training, log=tmp_path / "serve.log") as server,
        running(
            edge / "fisherfleet-edge", "--config", fleet / "devices/device-001/device.toml", log=tmp_path / "1.log"
        ) as one,
        running(
            edge / "fisherfleet-edge", "--config", fleet / "devices/device-002/device.toml", log=tmp_path / "2.log"
        ) as two,
    ):
        assert server.wait(120) == 0, (tmp_path / "serve.log").read_text() + (tmp_path / "1.log").read_text()
        await counted(30, tmp_path / "1.log", tmp_path / "2.log")
        for device in (one, two):
            assert peak_resident_mb(device) < RESIDENT_LIMIT_MB
            device.send_signal(signal.SIGTERM)
        for device in (one, two):
            assert device.wait(20) in (0, 128 + signal.SIGTERM)
    printed = (tmp_path / "serve.log").read_text()
    assert len(re.findall(r"round \d+", printed)) >= 30, printed
    predict = state / "predict.onnx"
    assert str(predict) in printed
    with np.load(fleet / "test.npz") as test:
        (logits,) = onnxruntime.InferenceSession(predict).run(None, {"batch": test["x"]})
        assert np.mean(logits.argmax(1) == test["y"]) > 0.8
    assert (predict.parent / "model.safetensors").exists()


def test_a_device_says_in_one_line_what_is_wrong(edge: Path, tmp_path: Path) -> None:
    (tmp_path / "device.toml").write_text('device = "a"\nbroker = "tcp://x"\nserver = "http://x"\ndata = "d.npz"\n')
    done = subprocess.run(
        [edge / "fisherfleet-edge", "--config", tmp_path / "device.toml"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "broker must be mqtt://" in done.stderr
    assert done.stderr.count("\n") == 1


def _free_port() -> int:

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
