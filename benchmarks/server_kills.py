"""kill -9 of the server at random moments of a run, again and again: does the run end with the same model?

    python -m benchmarks.server_kills --kills 200
    python -m benchmarks.server_kills --kills 200 --postgresql
    python -m benchmarks.server_kills --kills 200 --runs 2

A real broker and real devices in processes of their own. Each server is a fork of a process that has its modules
loaded, is killed from outside a random time after it began, and the next one begins at once. A service whose runs end
before it was killed often enough is followed by another; one that nobody disturbs is the oracle, bit for bit.
`--postgresql` makes a PostgreSQL for it, with syncs. With `--runs 2` two runs take turns, and both must end alike.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from sqlalchemy import URL

from benchmarks.figures import benchmark_parser, publish
from server.run_codec import read_run
from tests.faults.party import INPUT_SHAPE, Party, Plot, as_options, fisherfleet, wait_for_port
from tests.server.service import killed_server
from tests.server.service.runs_in_turns import Ending, endings, make_running
from tests.throwaway_postgresql import Postgresql

PLOT = Plot(devices=4, groups=2, rounds=40)
LONGEST_LIFE = 0.1
"""Of the time that an undisturbed run takes: the longest until a server is killed, unless told otherwise."""
KILLED = -9


@dataclass(frozen=True)
class Outcome:
    """How a service's runs ended, by name, and how often it was killed."""

    ended: Mapping[str, Ending]
    kills: int
    seconds: float


@dataclass(frozen=True)
class Asked:
    """So many `kills` in all, at least, of services whose `runs` take turns, each within `longest` seconds."""

    kills: int
    runs: int
    longest: float | None


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


def train(folder: Path, bundle: Path, runs: int, fate: Fate, url: URL | None) -> Outcome:
    """A service of so many runs, whose servers meet this fate."""
    party = Party(folder, bundle, PLOT)
    party.provision()
    make_running(party.state, url, bundle, [read_run(f"run-{number}", party.training()) for number in range(runs)])
    options = as_options(party.service())
    if url is not None:
        options.append(f"--database={url.render_as_string(hide_password=False)}")
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
    if status != killed_server.ENDED:
        raise RuntimeError(f"the server ended with status {status}:\n{party.report()}")
    return Outcome(endings(party.state, url), kills, time.monotonic() - began)


def train_until(asked: Asked, folder: Path, draw: random.Random, databases: Iterator[URL | None]) -> list[Outcome]:
    """The service that nobody disturbs, and then others until servers were killed so often in all."""
    bundle = folder / "bundle"
    fisherfleet("export", "mlp", "--input", ",".join(map(str, INPUT_SHAPE)), "--out", bundle)
    outcomes = [train(folder / "undisturbed", bundle, asked.runs, Fate(0, 0.0, draw), None)]
    longest = asked.longest or outcomes[0].seconds * LONGEST_LIFE
    while (left := asked.kills - sum(one.kills for one in outcomes)) > 0:
        name = f"killed-{len(outcomes)}"
        outcomes.append(train(folder / name, bundle, asked.runs, Fate(left, longest, draw), next(databases)))
    return outcomes


def figures_of(outcomes: list[Outcome]) -> list[dict[str, Any]]:
    """What each service came to, beside the first."""
    return [
        {
            "kills": one.kills,
            "runs": len(one.ended),
            "updates": sum(len(run.counted) for run in one.ended.values()),
            "same_models": all(one.ended[run].model == ended.model for run, ended in outcomes[0].ended.items()),
            "same_updates": all(one.ended[run].counted == ended.counted for run, ended in outcomes[0].ended.items()),
            "seconds": round(one.seconds, 1),
        }
        for one in outcomes
    ]


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Does a run whose server is killed at random end with the same model?")
    parser.add_argument("--kills", type=int, default=200, help="in all, at least")
    parser.add_argument("--runs", type=int, default=1, help="that take turns")
    parser.add_argument("--longest", type=float, help="a server's longest life (a tenth of what all takes)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments at which it is killed")
    parser.add_argument("--postgresql", action="store_true", help="with a PostgreSQL cluster of its own")
    arguments = parser.parse_args()
    asked = Asked(arguments.kills, arguments.runs, arguments.longest)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        databases: Iterator[URL | None] = repeat(None)
        if arguments.postgresql:
            cluster = Postgresql(durable=True)
            stack.callback(cluster.close)
            databases = iter(cluster.new_database, None)
        outcomes = train_until(asked, folder, random.Random(arguments.seed), databases)
    runs = figures_of(outcomes)
    kind = "PostgreSQL" if arguments.postgresql else "SQLite"
    rows = [{name: str(value) for name, value in run.items()} for run in runs]
    title = f"{kind}: {sum(one.kills for one in outcomes)} kills of the server at random, runs at a time: {asked.runs}"
    publish(title, rows, {"database": kind, "services": runs}, arguments.json)
    if not all(run["same_models"] and run["same_updates"] for run in runs):
        sys.exit("a run ended otherwise than where nobody disturbed it")


if __name__ == "__main__":
    main()
