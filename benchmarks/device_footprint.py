"""What a device costs its machine, beside Flower's SuperNode: processor time until it is ready, memory, packages.

    python3.11 -m venv .venv-flower && .venv-flower/bin/pip install -r requirements-flower.txt
    python -m benchmarks.device_footprint --json footprint.json

A real broker, server and device in processes of their own on this machine; the device is what its packages install on
Debian 12 on a PC, compiled and started as they do it. It is ready when the broker has acknowledged its birth message,
the SuperNode when the SuperLink knows it. Processor seconds are those of the whole process from its start on, user and
system; the two take turns, and medians count. Idle is the memory resident two seconds later, before there is anything
to train. Training is the most memory resident in `ROUNDS` rounds of LeNet, scoring of neurons and sending included; a
SuperNode trains in another process, with whatever its user chose.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import psutil

from benchmarks.figures import benchmark_parser, publish
from benchmarks.fleet_of_one import device_folder, fleet_of_one
from benchmarks.supernode import superlink, supernode
from devices.flashing.caches import cache_folder
from devices.flashing.client_tree import write_site_packages
from devices.flashing.systems import system_named
from tests.faults.party import wait_for_port

FLOWER = Path(".venv-flower/bin")
SYSTEM = "bookworm-x86-64"
ROUNDS, STEPS = 3, 20
SETTLING_SECONDS = 2.0
READY = "connected to"

LAUNCH = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from edge_client.__main__ import main
sys.exit(main())
"""
FLOWERS_OWN = """
import json
from importlib.metadata import distribution
from packaging.requirements import Requirement
found = {}
def add(requirement):
    name = requirement.name.lower().replace("_", "-")
    if name not in found:
        found[name] = distribution(requirement.name)
        for needed in map(Requirement, found[name].requires or ()):
            extras = ("", *requirement.extras)
            if needed.marker is None or any(needed.marker.evaluate({"extra": extra}) for extra in extras):
                add(needed)
add(Requirement("flwr"))
paths = {one.locate_file(file).resolve() for one in found.values() for file in one.files or ()}
print(json.dumps([len(found), sum(path.stat().st_size for path in paths if path.is_file()) / 1e6]))
"""


@dataclass
class Footprint:
    """One side: processor seconds until ready and idle megabytes of each turn, and what is installed."""

    packages: int
    installed_mb: float
    seconds: list[float] = field(default_factory=list)
    idle_mb: list[float] = field(default_factory=list)
    training_mb: float | None = None

    def look(self, process: int) -> None:
        """Note what a process that just became ready has cost, and what it costs a little later."""
        watched = psutil.Process(process)
        spent = watched.cpu_times()
        self.seconds.append(spent.user + spent.system)
        time.sleep(SETTLING_SECONDS)
        self.idle_mb.append(watched.memory_info().rss / 1e6)

    def figures(self) -> dict[str, float | None]:
        """Medians of all turns, by name."""
        return {
            "ready_cpu_seconds": median(self.seconds),
            "idle_mb": median(self.idle_mb),
            "training_mb": self.training_mb,
            "packages": self.packages,
            "installed_mb": self.installed_mb,
        }


def flower_installed(binaries: Path) -> Footprint:
    """Flower without its simulation engine: packages, and their size in MB (10^6 bytes)."""
    command = [str(binaries / "python"), "-c", FLOWERS_OWN]
    packages, size = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return Footprint(packages, size)


def device_installed(tree: Path) -> Footprint:
    """Make the client's packages in `tree`, and count them alike."""
    write_site_packages(system_named(SYSTEM), tree, cache_folder(), print)
    subprocess.run([python(), "-I", "-m", "compileall", "-q", str(tree)], check=True)
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    return Footprint(len(list(tree.glob("*.dist-info"))), size / 1e6)


def python() -> str:
    """The system's Python, with nothing installed beside it."""
    return str(Path(sys.base_prefix) / "bin" / f"python{system_named(SYSTEM).python}")


@contextmanager
def ready_device(tree: Path, folder: Path) -> Iterator[int]:
    """The device of a folder, as soon as the broker has its birth; gives its process id."""
    command = [python(), "-I", "-S", "-c", LAUNCH, str(tree), "--config", str(folder / "device.toml")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stderr is not None
            seen = []
            for line in process.stderr:
                seen.append(line)
                if READY in line:
                    break
            else:
                raise RuntimeError(f"the device did not become ready:\n{''.join(seen)}")
            yield process.pid
        finally:
            process.terminate()
            process.stderr.read()


def measure(turns: int, flower: Path) -> dict[str, Footprint]:
    """Both sides in turn, then the device's training."""
    with TemporaryDirectory() as name, superlink(flower, Path(name)) as port:
        folder, theirs = Path(name), flower_installed(flower)
        tree = folder / "site-packages"
        ours, made = device_installed(tree), fleet_of_one(folder, ROUNDS, STEPS)
        made.broker.start()
        try:
            wait_for_port(made.broker_port)
            for _ in range(turns):
                with ready_device(tree, device_folder(made)) as process:
                    ours.look(process)
                with supernode(flower, folder, port) as process:
                    theirs.look(process)
            with ready_device(tree, device_folder(made)) as process:
                made.server.start()
                made.await_end()
                ours.training_mb = peak_mb(process)
        finally:
            made.server.stop()
            made.broker.stop()
    return {"device": ours, "Flower's SuperNode": theirs}


def peak_mb(process: int) -> float:
    """The most memory that was resident in a process, MB (10^6 bytes)."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmHWM:"))) * 1024 / 1e6


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("What a device costs its machine, beside Flower's SuperNode.")
    parser.add_argument("--turns", type=int, default=5, help="starts of each side, in turn (default: %(default)s)")
    parser.add_argument("--flower", type=Path, default=FLOWER, help="its environment's bin (default: %(default)s)")
    options = parser.parse_args()
    if not (options.flower / "python").exists():
        parser.error(f"--flower {options.flower} has no python: see requirements-flower.txt")
    figures = {side: footprint.figures() for side, footprint in measure(options.turns, options.flower).items()}
    rows = [
        {"process": side, **{name: _shown(name, value) for name, value in one.items()}} for side, one in figures.items()
    ]
    publish("A device beside Flower's SuperNode", rows, figures, options.json)


def _shown(name: str, value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if name.endswith("seconds") else f"{value:.0f}"


if __name__ == "__main__":
    main()
