"""A fleet of one device, with a real server and broker on this machine: whoever runs the device trains one round."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from devices.emulation.broker import embedded_broker
from devices.provisioning.enrolment import Surroundings, add_devices
from server.fleet.fleet_folder import create_fleet

ROOT = Path(__file__).parents[2]
DEVICE = "kitchen"
EXAMPLES = 64
ROUND_SECONDS = 600
PATIENCE_SECONDS = 600
POLL_SECONDS = 0.1


@dataclass(frozen=True)
class OneRound:
    """The server that waits for the device, and the device's folder."""

    device: Path
    server: subprocess.Popen[bytes]
    log: Path

    async def train(self, command: Sequence[object], log: Path) -> None:
        """Run the device until its update is counted, then stop it as systemd would."""
        with running(command, log) as device:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while "counted by the server" not in log.read_text():
                    said = f"{self.log.read_text()}\n{log.read_text()}"
                    assert device.poll() is None, said
                    assert self.server.poll() in (None, 0), said
                    await asyncio.sleep(POLL_SECONDS)
            device.send_signal(signal.SIGTERM)
            assert device.wait(PATIENCE_SECONDS) == 0, log.read_text()
        assert self.server.wait(PATIENCE_SECONDS) == 0, self.log.read_text()


@asynccontextmanager
async def one_round(folder: Path, bundle: Path) -> AsyncIterator[OneRound]:
    """A fleet below `folder` that trains `bundle`, a perceptron for images of 8 x 8 pixels."""
    async with embedded_broker(folder / "broker") as broker:
        port = _free_port()
        device = provision(folder / "fleet", str(broker), f"http://127.0.0.1:{port}")
        told = ["--fleet", folder / "fleet", "--broker", broker, "--port", port, "--state", folder / "state"]
        run = ["--bundle", bundle, "--rounds", 1, "--local-steps", 4, "--batch-size", 16, "--privacy", "none"]
        serve = [sys.executable, "-m", "devices.command_line", "serve", *told, *run, "--round-seconds", ROUND_SECONDS]
        with running(serve, folder / "serve.log") as server:
            yield OneRound(device, server, folder / "serve.log")


@contextmanager
def running(command: Sequence[object], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that writes to `log`; it is gone afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(list(map(str, command)), stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_SECONDS)


def provision(folder: Path, broker: str, server: str) -> Path:
    """The folder of the only device of a new fleet, with data and without TLS."""
    now = datetime.now(UTC)
    fleet = create_fleet(folder, "flashed", (), now)
    add_devices(fleet, [DEVICE], Surroundings(broker, server), now)
    drawn = np.random.default_rng(0)
    x = drawn.normal(size=(EXAMPLES, 1, 8, 8)).astype(np.float32)
    np.savez(fleet.device(DEVICE) / "data.npz", x=x, y=drawn.integers(0, 10, EXAMPLES))
    return fleet.device(DEVICE)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
