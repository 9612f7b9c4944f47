"""What it takes to simulate a fleet: peak memory and time, of fleets of 100 to 10,000 devices.

    python -m benchmarks.simulate_scale --json simulate_scale.json

`fisherfleet simulate` in a process of its own: LeNet on Fashion-MNIST, of which every device draws 60 examples; about
100 devices take part in a round, whatever the fleet. Memory is the peak, over the whole run and all its processes, of
the sum of their proportional set sizes (pages that processes share count once). The bar: 10,000 devices with sampling
1 % in 4 GB.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import benchmark_parser, publish

BAR_BYTES = 4e9
ASKED = 100
EXAMPLES = 60
LOOK_SECONDS = 0.25


@dataclass(frozen=True)
class Run:
    """How much is simulated."""

    devices: int
    rounds: int
    workers: int

    @property
    def command(self) -> list[str]:
        """The command line, without where its results go."""
        options = {
            "devices": self.devices,
            "participation": min(1.0, ASKED / self.devices),
            "rounds": self.rounds,
            "workers": self.workers,
            "examples": EXAMPLES,
            "dataset": "fashion-mnist",
            "model": "lenet",
            "local-steps": 10,
            "link": "250k-20M",
        }
        flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
        return [sys.executable, "-m", "devices.command_line", "simulate", *flags]


def measure(run: Run) -> dict[str, Any]:
    """Carry it out and watch its memory."""
    with TemporaryDirectory() as folder:
        began = time.monotonic()
        process = subprocess.Popen([*run.command, "--out", folder], stdout=subprocess.DEVNULL, start_new_session=True)
        peak = 0
        while process.poll() is None:
            peak = max(peak, _session_bytes(process.pid))
            time.sleep(LOOK_SECONDS)
        seconds = time.monotonic() - began
        if process.returncode:
            raise SystemExit(process.returncode)
        report = json.loads((Path(folder) / "report.json").read_text())
    turns = sum(kind["turns"] for kind in report["simulation"]["kinds"])
    trained = report["totals"]["seconds"]
    return {
        "devices": run.devices,
        "workers": run.workers,
        "turns": turns,
        "peak_bytes": peak,
        "seconds": seconds,
        "simulated_seconds": trained,
        "turns_per_second": turns / trained,
        "bar": peak <= BAR_BYTES,
    }


def _session_bytes(session: int) -> int:
    """Memory of all processes of a session; those that end meanwhile count nothing."""
    total = 0
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                if os.getsid(int(entry.name)) == session:
                    total += _proportional_bytes(Path(entry.path, "smaps_rollup").read_text())
            except OSError:
                continue
    return total


def _proportional_bytes(rollup: str) -> int:
    return next((1024 * int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")), 0)


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Memory and time of simulated fleets.")
    parser.add_argument("--devices", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    runs = [Run(devices, options.rounds, workers) for workers in options.workers for devices in options.devices]
    results = [measure(run) for run in runs]
    title = f"LeNet, {options.rounds} rounds of about {ASKED} devices; bar: {BAR_BYTES / 1e9:g} GB"
    publish(title, list(map(_row, results)), {"results": results, "bar_bytes": BAR_BYTES}, options.json)


def _row(one: dict[str, Any]) -> dict[str, str]:
    return {
        "devices": f"{one['devices']:,}",
        "workers": str(one["workers"]),
        "took part": str(one["turns"]),
        "peak memory MB": f"{one['peak_bytes'] / 1e6:,.0f}",
        "seconds in all": f"{one['seconds']:.0f}",
        "devices/s": f"{one['turns_per_second']:.1f}",
    }


if __name__ == "__main__":
    main()
