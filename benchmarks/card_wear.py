"""What a device writes to its card: bytes a round and a day, beside the size of its updates.

    python -m benchmarks.card_wear --json card_wear.json

A real broker and server, and a device in a process of its own, train LeNet on this machine for some rounds; the state
is below the working directory, which must be on a disk and not in memory. What the device counts is content, by kind;
what the kernel counts is pages, the file system's journal not included (`edge_client.card_wear`). The first round, with
bundle and model, is left out. A day has the rounds that `--rounds-a-day` says.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.figures import benchmark_parser, publish
from benchmarks.fleet_of_one import device_folder, fleet_of_one
from edge_client.card_wear import Written, written
from edge_client.config import load_config
from edge_client.status_socket import ask
from tests.faults.party import Party, wait_for_port

STEPS = 10
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Wear:
    """After the first round, and after all: what was written; and the bytes of payloads, from the log."""

    first: Written
    last: Written
    rounds: int
    update_bytes: int

    def each_round(self) -> dict[str, float]:
        """Bytes a round after the first, by kind, and in pages."""
        kinds = {kind: count - self.first.by_kind.get(kind, 0) for kind, count in self.last.by_kind.items()}
        pages = (self.last.kernel or 0) - (self.first.kernel or 0)
        return {name: count / (self.rounds - 1) for name, count in {**kinds, "pages": pages}.items()}


def measure(folder: Path, rounds: int, keep: float) -> Wear:
    """Run the rounds in `folder`."""
    made = fleet_of_one(folder, rounds, STEPS, keep)
    made.broker.start()
    try:
        wait_for_port(made.broker_port)
        return _trained(made, device_folder(made), rounds)
    finally:
        made.server.stop()
        made.broker.stop()


def _trained(made: Party, device: Path, rounds: int) -> Wear:
    config, log = load_config(device / "device.toml"), device / "log"
    with (
        log.open("w") as out,
        subprocess.Popen(
            [sys.executable, "-m", "edge_client", "--config", str(device / "device.toml")], stderr=out
        ) as process,
    ):
        try:
            made.server.start()
            first = _await(lambda: log.read_text().count("counted by the server") >= 1, config.state, process)
            last = _await(lambda: log.read_text().count("counted by the server") >= rounds, config.state, process)
        finally:
            process.terminate()
    sizes = [
        int(line.split("update of ")[1].split()[0]) for line in log.read_text().splitlines() if "update of " in line
    ]
    return Wear(first, last, rounds, sum(sizes[1:]) // max(1, len(sizes) - 1))


def _await(done: Callable[[], bool], state: Path, process: subprocess.Popen[bytes]) -> Written:
    while not done():
        if process.poll() is not None:
            raise RuntimeError("the device ended")
        time.sleep(POLL_SECONDS)
    status = ask(state)
    if status is None:
        raise RuntimeError("the device does not tell its status")
    return Written(status.written.by_kind, written(str(process.pid)).kernel)


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("What a device writes to its card.")
    parser.add_argument("--rounds", type=int, default=10, help="of training (default: %(default)s)")
    parser.add_argument("--rounds-a-day", type=int, default=144, help="one in 10 minutes (default: %(default)s)")
    parser.add_argument("--keep", type=float, default=0.25, help="share of the neurons (default: %(default)s)")
    options = parser.parse_args()
    with TemporaryDirectory(dir=Path.cwd(), prefix=".card-wear-") as name:
        wear = measure(Path(name), options.rounds, options.keep)
    each = wear.each_round()
    rows = [
        {"written": kind, "bytes a round": f"{count:,.0f}", "of an update": f"{count / wear.update_bytes:.2f}",
         "MB a day": f"{count * options.rounds_a_day / 1e6:.2f}"}
        for kind, count in each.items()
    ]  # fmt: skip
    figures = {"a_round": each, "update_bytes": wear.update_bytes, "first": dict(wear.first.by_kind)}
    publish(f"Written to the card by rounds with updates of {wear.update_bytes:,} bytes", rows, figures, options.json)


if __name__ == "__main__":
    main()
