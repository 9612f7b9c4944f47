"""A broker, a server and devices as real processes, any of which can be killed with SIGKILL and started again.

Every run from one `Plot` trains the same: data, seeds and names are those of its numbers. Values are sent as float32,
so that the whole model and a slice of it give the same bytes.
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from devices.emulation.broker import find_mosquitto

ROOT = Path(__file__).parents[2]
RUN = "faults"
INPUT_SHAPE = (1, 28, 28)
EXAMPLES = 24
PATIENCE_SECONDS = 240.0
POLL_SECONDS = 0.1

BrokerKind = Literal["mosquitto", "mosquitto-persistent", "amqtt"]


@dataclass(frozen=True)
class Plot:
    """What is trained: `devices` in `groups` processes, `rounds` rounds."""

    devices: int
    groups: int
    rounds: int
    keep: float = 0.5
    selection: str = "fisher-cohort"
    serve: tuple[str, ...] = ()


@dataclass
class Component:
    """One process that can be killed; `before` runs ahead of each start."""

    name: str
    command: list[str]
    log: Path
    before: Callable[[], None] = lambda: None
    kills: int = 0
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process."""
        self.before()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, cwd=ROOT
            )

    def kill(self) -> None:
        """Kill -9."""
        assert self._process is not None
        self.kills += 1
        self._process.kill()
        self.reap()

    def stop(self) -> None:
        """Kill -9 where it still runs, not counted."""
        if self._process is not None:
            self._process.kill()
            self.reap()

    def reap(self) -> None:
        """Wait until it is gone."""
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.wait(10)
        self._process.stdin.close()

    @property
    def status(self) -> int | None:
        """Exit status, None while it runs."""
        return None if self._process is None else self._process.poll()

    def text(self) -> str:
        """Its log."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


class Party:
    """One run in a folder of its own; `device_port` is where devices look for the broker, `server_port` for models."""

    def __init__(self, folder: Path, bundle: Path, plot: Plot, kind: BrokerKind = "mosquitto") -> None:
        self.plot = plot
        self.folder = folder
        self.broker_port = free_port()
        self.http_port = free_port()
        self.device_port = self.server_link_port = self.broker_port
        self.state = folder / "state"
        self.fleet = folder / "fleet"
        self.bundle = bundle
        self.broker = self._broker(kind)

    def provision(self) -> None:
        """Make the fleet and its devices; ports are final by now."""
        names = [f"device-{number:02}" for number in range(self.plot.devices)]
        broker, server = f"mqtt://127.0.0.1:{self.device_port}", f"http://127.0.0.1:{self.http_port}"
        fisherfleet("fleet", "init", self.fleet, "--name", "faults", "--host", "127.0.0.1")
        fisherfleet("fleet", "add", self.fleet, *names, "--broker", broker, "--server", server)
        for number, name in enumerate(names):
            device = self.folder / f"group-{number % self.plot.groups}" / name
            shutil.copytree(self.fleet / "devices" / name, device)
            with (device / "device.toml").open("a") as file:
                file.write(f"\nseed = {number}\n")
            generator = np.random.default_rng(number)
            x = generator.standard_normal((EXAMPLES, *INPUT_SHAPE)).astype(np.float32)
            np.savez(device / "data.npz", x=x, y=generator.integers(0, 10, EXAMPLES))
        self.server = self._server()
        self.groups = [self._group(number) for number in range(self.plot.groups)]

    @property
    def components(self) -> list[Component]:
        """All processes, in the order in which they start."""
        return [self.broker, self.server, *self.groups]

    def start(self) -> None:
        """Start all."""
        self.broker.start()
        wait_for_port(self.broker_port)
        for component in (self.server, *self.groups):
            component.start()

    def stop(self) -> None:
        """Stop all by their process ids."""
        for component in reversed(self.components):
            component.stop()

    def await_end(self, every_poll: Callable[[], None] = lambda: None, patience: float = PATIENCE_SECONDS) -> None:
        """Wait until the server ends its run; fails with the logs where it does not."""
        deadline = time.monotonic() + patience
        while self.server.status is None:
            every_poll()
            time.sleep(POLL_SECONDS)
            if time.monotonic() > deadline:
                raise AssertionError(f"the run did not end in {patience} s\n{self.report()}")
        assert self.server.status == 0, self.report()

    def model(self) -> bytes:
        """The final model's bytes."""
        return (self.state / "model.safetensors").read_bytes()

    def counted(self) -> dict[int, int]:
        """Updates counted in each closed round, from the server's database."""
        database = sqlite3.connect(f"file:{self.state / 'fisherfleet.sqlite'}?mode=ro", uri=True)
        try:
            return dict(database.execute("SELECT round, updates_accepted FROM rounds WHERE status = 'closed'"))
        finally:
            database.close()

    def report(self) -> str:
        """The ends of all logs."""
        return "\n".join(f"--- {each.name} ({each.kills} kills)\n{each.text()[-3000:]}" for each in self.components)

    def _broker(self, kind: BrokerKind) -> Component:
        log = self.folder / "broker.log"
        if kind == "amqtt":
            listen = ["devices.emulation.broker_process", str(os.getpid()), "amqtt", "127.0.0.1", str(self.broker_port)]
            return Component("broker", [sys.executable, "-m", *listen], log)
        configuration = self.folder / "mosquitto.conf"
        store = self.folder / "broker-store"
        store.mkdir(parents=True)
        lines = [f"listener {self.broker_port} 127.0.0.1", "allow_anonymous true", "user root"]
        if kind == "mosquitto-persistent":
            lines += ["persistence true", f"persistence_location {store}/", "autosave_interval 1"]
        configuration.write_text("\n".join(lines) + "\n")
        return Component("broker", [str(find_mosquitto()), "-c", str(configuration)], log)

    def service(self) -> dict[str, object]:
        """What a server is told, run or no run, by the names of `fisherfleet serve`."""
        return {
            "fleet": self.fleet,
            "state": self.state,
            "broker": f"mqtt://127.0.0.1:{self.server_link_port}",
            "port": self.http_port,
        }

    def training(self) -> dict[str, Any]:
        """What a run is told, by the names of `RunConfig`."""
        return {
            "rounds": self.plot.rounds,
            "keep": self.plot.keep,
            "precision": "float32",
            "selection": self.plot.selection,
            "downlink": "float16",
            "resync_every": 5,
            "local_steps": 2,
            "batch_size": 8,
            "learning_rate": 0.05,
            "min_devices": self.plot.devices,
            "quorum": self.plot.devices,
            "round_seconds": PATIENCE_SECONDS,
            "privacy": "none",
        }

    def _server(self) -> Component:
        options = self.service() | {"bundle": self.bundle, "run": RUN} | self.training()
        command = [sys.executable, "-m", "server", *as_options(options), *self.plot.serve]
        return Component("server", command, self.folder / "server.log")

    def _group(self, number: int) -> Component:
        folder = self.folder / f"group-{number}"
        command = [sys.executable, "-m", "devices.emulation.fleet", str(folder), "1"]
        return Component(f"devices {number}", command, self.folder / f"group-{number}.log")


@dataclass
class Chaos:
    """Kills a component drawn at random every so often and starts it again a little later; call it often.

    It rests after `most` kills: on a busy machine no round may end between two of them, and it must end then.
    """

    victims: list[Component]
    seed: int
    pause: tuple[float, float] = (0.3, 2.5)
    away: tuple[float, float] = (0.0, 0.6)
    most: int = 40

    def __post_init__(self) -> None:
        self._draw = random.Random(self.seed)
        self._next = time.monotonic() + self._draw.uniform(*self.pause)

    def __call__(self) -> None:
        """Kill now, if it is time."""
        if time.monotonic() < self._next or sum(victim.kills for victim in self.victims) >= self.most:
            return
        victim = self._draw.choice(self.victims)
        if victim.status is None:
            victim.kill()
            time.sleep(self._draw.uniform(*self.away))
            victim.start()
        self._next = time.monotonic() + self._draw.uniform(*self.pause)


def as_options(values: Mapping[str, object]) -> list[str]:
    """Names and values as a command takes them."""
    return [text for name, value in values.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def fisherfleet(*arguments: object) -> None:
    """Run a command of ours; its words are shown where it fails."""
    command = [sys.executable, "-m", "devices.command_line", *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def wait_for_port(port: int, patience: float = 20.0) -> None:
    """Wait until something listens on a loopback port."""
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise AssertionError(f"nothing listens on port {port}")


def free_port() -> int:
    """A loopback port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(party: Party) -> Iterator[Party]:
    """The party started; stopped at the end whatever happens."""
    try:
        party.start()
        yield party
    finally:
        party.stop()
