"""Updates a second of our server beside Flower's simulation engine, on one machine, taking turns.

    python3.11 -m venv .venv-flower && .venv-flower/bin/pip install -r requirements-flower.txt
    python -m benchmarks.vs_flower --json vs_flower.json

Ours is `benchmarks.update_load`: sealed updates through a real broker to a server that verifies and spools each.
Flower's is `benchmarks/flower_side.py`: arrays of the same size through Ray's object store in memory, with no network,
no signature and nothing on disk. Its engine also hands every client an array of that size. Ray's workers run at the
priority of all others, not at nice 15 as by default, which costs them much on a busy machine. Medians over all
rounds.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from statistics import median

from benchmarks.figures import benchmark_parser, publish
from benchmarks.update_load import measure

FLOWER_PYTHON = Path(".venv-flower/bin/python")
TIME_LIMIT_SECONDS = 900.0


def flower_rates(python: Path, devices: int, rounds: int, size: int) -> list[float]:
    """Updates a second of each of Flower's rounds after the first."""
    side = Path(__file__).with_name("flower_side.py")
    options = {"devices": devices, "rounds": rounds, "bytes": size}
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    settings = {"FLWR_TELEMETRY_ENABLED": "0", "RAY_DEDUP_LOGS": "0", "RAY_worker_niceness": "0"}
    done = subprocess.run(
        [str(python), str(side), *arguments],
        env=os.environ | settings,
        check=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        timeout=TIME_LIMIT_SECONDS,
    )
    rates: list[float] = json.loads(done.stdout.splitlines()[-1])["updates_per_s"]
    return rates


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Updates a second of our server and of Flower's simulation engine.")
    parser.add_argument("--devices", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=4, help="rounds of each run (default: %(default)s)")
    parser.add_argument("--turns", type=int, default=2, help="runs of each side, in turn (default: %(default)s)")
    parser.add_argument("--flower-python", type=Path, default=FLOWER_PYTHON)
    options = parser.parse_args()
    if not options.flower_python.exists():
        parser.error(f"--flower-python {options.flower_python} does not exist: see requirements-flower.txt")
    ours: list[float] = []
    flower: list[float] = []
    for _ in range(options.turns):
        load, size = measure(options.devices, options.rounds)
        ours += load.rates
        flower += flower_rates(options.flower_python, options.devices, options.rounds, size)
    figures = {"ours_updates_per_s": median(ours), "flower_updates_per_s": median(flower)}
    row = {"devices": str(options.devices), "bytes an update": str(size)}
    row |= {name.replace("_", " "): f"{value:.0f}" for name, value in figures.items()}
    row["ours / Flower"] = f"{figures['ours_updates_per_s'] / figures['flower_updates_per_s']:.2f}"
    publish("updates a second", [row], figures, options.json)


if __name__ == "__main__":
    main()
