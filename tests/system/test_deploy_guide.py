"""docs/deploy.md, word for word: its blocks of shell in their order, on one machine.

Each machine of the guide is a bash in a folder of its own. Nothing is replaced but by the environment variables that
the guide introduces. Blocks whose title begins with `install` are left out: they need root or the network.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Timer

import numpy as np
import onnxruntime
import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "deploy.md"
DEVICES = ("kitchen", "garden", "cellar")
BLOCK = re.compile(r'^```sh title="(?P<title>[^"]+)"\n(?P<commands>.*?)^```$', re.MULTILINE | re.DOTALL)
FENCE = re.compile(r"^```sh", re.MULTILINE)
DONE = "the block is done"
PATIENCE_SECONDS = 600
"""With a block; a machine that is busy otherwise takes minutes."""


@dataclass(frozen=True)
class Block:
    """Commands for the machines that the title names."""

    title: str
    commands: str


class Machine:
    """A bash that runs one block after the other and ends at the first command that fails."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        folder.mkdir()
        self.folder = folder
        self._log = folder / "shell.log"
        with self._log.open("wb") as log:
            self._bash = subprocess.Popen(
                ["bash", "-euo", "pipefail"],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                text=True,
            )

    def run(self, block: Block) -> str:
        """What the block prints; raises `AssertionError` with all of the machine's logs where a command fails."""
        patience = Timer(PATIENCE_SECONDS, self._kill)
        patience.start()
        self._bash.stdin.write(f"{block.commands}printf '\\n%s\\n' '{DONE}'\n")
        self._bash.stdin.flush()
        printed = ""
        for line in self._bash.stdout:
            if line.strip() == DONE:
                patience.cancel()
                return printed
            printed += line
        patience.cancel()
        logs = [log.read_text() for log in sorted(self.folder.glob("*.log"))]
        raise AssertionError("\n".join([block.commands, printed, *logs]))

    def stop(self) -> None:
        """End the shell and all that it started."""
        self._kill()
        self._bash.wait()
        self._bash.stdin.close()
        self._bash.stdout.close()

    def _kill(self) -> None:
        os.killpg(self._bash.pid, signal.SIGKILL)


def blocks() -> list[Block]:
    text = GUIDE.read_text()
    found = [Block(match["title"], match["commands"]) for match in BLOCK.finditer(text)]
    assert len(found) == len(FENCE.findall(text)), "every block of shell says whose it is"
    return found


@pytest.fixture
def yard() -> Iterator[Path]:
    """A folder that the user mosquitto can reach, as pytest's own is closed to others."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextmanager
def machines(yard: Path) -> Iterator[dict[str, list[Machine]]]:
    server = yard / "server"
    ports = {name: str(free_port()) for name in ("MQTT_PORT", "HTTPS_PORT", "HTTP_PORT")}
    own = {"FISHERFLEET": str(ROOT), "FLEET_HOST": "127.0.0.1", "SERVER_FOLDER": str(server), **ports}
    shared = {"PATH": os.environ["PATH"], "HOME": str(yard)} | own
    with ExitStack() as running:

        def start(folder: Path, **said: str) -> Machine:
            machine = Machine(folder, shared | said)
            running.callback(machine.stop)
            return machine

        yield {
            "server": [start(server)],
            "each device": [start(yard / name, DEVICE=name) for name in DEVICES],
        }


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def accuracy(model: Path, test: Path) -> float:
    with np.load(test) as examples:
        (logits,) = onnxruntime.InferenceSession(model).run(None, {"batch": examples["x"]})
        return float(np.mean(logits.argmax(1) == examples["y"]))


def test_the_guide_leads_to_a_private_run_over_tls(yard: Path) -> None:
    for needed in ("mosquitto", "caddy", "curl", "scp"):
        if shutil.which(needed, path=f"{os.environ['PATH']}:/usr/sbin") is None:
            pytest.skip(f"needs {needed}")
    with machines(yard) as owners:
        for block in blocks():
            if not block.title.startswith("install"):
                for machine in owners[block.title]:
                    machine.run(block)
        for machine in owners["each device"]:
            status = machine.run(Block("", "fisherfleet-edge privacy status --config device.toml --json\n"))
            assert 3 < json.loads(status)["epsilon"] <= 4, status
            table = (machine.folder / "device.toml").read_text()
            assert 'broker = "mqtts://' in table
            assert 'server = "https://' in table
    server = yard / "server"
    assert "Private for any one record: epsilon 4 " in (server / "server.log").read_text()
    assert accuracy(server / "fisherfleet-state" / "predict.onnx", server / "shares" / "test.npz") > 0.75
