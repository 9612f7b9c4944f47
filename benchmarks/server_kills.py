"""kill -9 of the server at random moments of a run, again and again: does the run end with the same model?

    python -m benchmarks.server_kills --kills 200
    python -m benchmarks.server_kills --kills 200 --postgresql

A real broker and real devices in processes of their own. Each server is a fork of a process that has its modules
loaded, is killed from outside a random time after it began, and the next one begins at once. A run that ends before it
was killed often enough is followed by another; one that nobody disturbs is the oracle, bit for bit. `--postgresql`
makes a PostgreSQL for it, with the disk's syncs.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import URL

from benchmarks.figures import benchmark_parser, publish
from server.storage import Store
from tests.faults.party import INPUT_SHAPE, RUN, Party, Plot, fisherfleet, wait_for_port
from tests.server.service import killed_server
from tests.throwaway_postgresql import Postgresql

PLOT = Plot(devices=4, groups=2, rounds=40)
LONGEST_LIFE = 0.1
"""Of the time that an undisturbed run takes: the longest until a server is killed."""
KILLED = -9


@dataclass(frozen=True)
class Outcome:
    """How a run ended: its model, the updates counted in each closed round, and how often its server was killed."""

    model: bytes
    counted: tuple[int, ...]
    kills: int
    seconds: float


@dataclass(frozen=True)
class Fate:
    """Servers are killed within `longest` seconds, at moments that `draw` gives, until `most` were."""

    most: int
    longest: float
    draw: random.Random

    def seconds(self, kills: int) -> float:
        """How long a server lives after so many kills, 0 for as long as it likes."""
        return self.draw.uniform(0.01, self.longest) if kills < self.most else 0.0


@contextmanager
def forking_server(log: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that serves as often as it is told."""
    command = [sys.executable, killed_server.__file__]
    with (
        log.open("ab") as output,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=output, text=True) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def live(process: subprocess.Popen[str], seconds: float, options: list[str]) -> int:
    """One server's life: killed after `seconds`, never if 0; how it ended."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps(["", 0, seconds, options]) + "\n")
    process.stdin.flush()
    return int(process.stdout.readline())


def train(folder: Path, bundle: Path, fate: Fate, url: URL | None) -> Outcome:
    """A run whose servers meet this fate."""
    plot = PLOT if url is None else replace(PLOT, serve=(f"--database={url.render_as_string(hide_password=False)}",))
    party = Party(folder, bundle, plot)
    party.provision()
    options = party.server.command[3:]
    kills, status, began = 0, KILLED, time.monotonic()
    with forking_server(folder / "server.log") as server:
        try:
            party.broker.start()
            wait_for_port(party.broker_port)
            for group in party.groups:
                group.start()
            while status == KILLED:
                status = live(server, fate.seconds(kills), options)
                kills += status == KILLED
        finally:
            for component in (*party.groups, party.broker):
                component.stop()
    if status != 0:
        raise RuntimeError(f"the server ended with status {status}:\n{party.report()}")
    store = Store(party.state, url)
    counted = tuple(record.updates_accepted for record in store.rounds(RUN))
    store.close()
    return Outcome(party.model(), counted, kills, time.monotonic() - began)


def train_until(kills: int, folder: Path, draw: random.Random, databases: Iterator[URL | None]) -> list[Outcome]:
    """The run that nobody disturbs, and then runs until servers were killed so often in all."""
    bundle = folder / "bundle"
    fisherfleet("export", "mlp", "--input", ",".join(map(str, INPUT_SHAPE)), "--out", bundle)
    outcomes = [train(folder / "undisturbed", bundle, Fate(0, 0.0, draw), None)]
    longest = outcomes[0].seconds * LONGEST_LIFE
    while (left := kills - sum(one.kills for one in outcomes)) > 0:
        name = f"killed-{len(outcomes)}"
        outcomes.append(train(folder / name, bundle, Fate(left, longest, draw), next(databases)))
    return outcomes


def figures_of(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """What each run came to, beside the first."""
    return [
        {
            "kills": one.kills,
            "rounds": len(one.counted),
            "updates": sum(one.counted),
            "same_model": one.model == outcomes[0].model,
            "same_updates": one.counted == outcomes[0].counted,
            "seconds": round(one.seconds, 1),
        }
        for one in outcomes
    ]


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Does a run whose server is killed at random end with the same model?")
    parser.add_argument("--kills", type=int, default=200, help="in all, at least")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed")
    parser.add_argument("--postgresql", action="store_true", help="with a PostgreSQL cluster of its own")
    arguments = parser.parse_args()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        databases: Iterator[URL | None] = repeat(None)
        if arguments.postgresql:
            cluster = Postgresql(durable=True)
            stack.callback(cluster.close)
            databases = iter(cluster.new_database, None)
        outcomes = train_until(arguments.kills, folder, random.Random(arguments.seed), databases)
    runs = figures_of(outcomes)
    kind = "PostgreSQL" if arguments.postgresql else "SQLite"
    rows = [{name: str(value) for name, value in run.items()} for run in runs]
    title = f"{kind}: {sum(one.kills for one in outcomes)} kills of the server at random"
    publish(title, rows, {"database": kind, "runs": runs}, arguments.json)
    if not all(run["same_model"] and run["same_updates"] for run in runs):
        sys.exit("a run ended otherwise than the one that nobody disturbed")


if __name__ == "__main__":
    main()
