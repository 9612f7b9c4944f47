"""`fisherfleet runs`: make runs, order them about, and watch them, over the server's HTTP interface."""

from __future__ import annotations

import argparse
import sys
import tarfile
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import tomllib

from server.console.arguments import add_command, new_command
from server.console.link import Json, Link, with_link
from server.console.output import moment, print_json, print_table
from wire_protocol.errors import InvalidValueError, require

_PROGRAM = "fisherfleet runs"
_ORDERS = {
    "start": "let a run that was created begin",
    "pause": "open no further round; the open one goes on to its close",
    "resume": "let a paused run go on, or a failed one once what was wrong is mended",
    "stop": "end a run for good",
    "resync": "make the next round a resync, in which devices choose their neurons afresh",
}
_OVER = ("finished", "stopped", "failed")
_POLL_SECONDS = 1.0
_SHOWN_ID = 12


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = command_parser().parse_args(argv)
    return with_link(_PROGRAM, arguments.server, lambda link: arguments.action(link, arguments))


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made, commands = new_command(_PROGRAM, "Runs of a server: trainings of one model by the fleet.")
    add_command(commands, "list", _list, "list runs, the newest first")
    add_command(commands, "show", _show, "show a run with its configuration", "run")
    _add_create(commands)
    for order, text in _ORDERS.items():
        add_command(commands, order, _order, text, "run").set_defaults(order=order)
    clone = add_command(commands, "clone", _clone, "make a run like another", "run")
    clone.add_argument("new", metavar="NEW", help="name of the new run")
    add_command(commands, "rounds", _rounds, "list a run's closed rounds", "run")
    add_command(commands, "watch", _watch, "print a run's rounds as they close, until it is over", "run")
    return made


def _add_create(commands: Any) -> None:
    create = add_command(commands, "create", _create, "make a run of a bundle; `start` lets it begin", "run")
    create.add_argument(
        "--bundle",
        required=True,
        metavar="FOLDER|ID",
        help="folder of `fisherfleet export`, or an id that is there",
    )
    create.add_argument("--config", type=Path, metavar="FILE.toml", help="the run's configuration")
    create.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="one value, such as rounds=20, privacy=none or training.momentum=0.5; before those of the file",
    )
    create.add_argument(
        "--test", type=Path, metavar="FILE.npz", help="held-out examples, arrays x and y, to test every version on"
    )
    create.add_argument("--start", action="store_true", help="let it begin at once")


def _list(link: Link, arguments: argparse.Namespace) -> None:
    runs = list(link.all("runs"))
    if arguments.json:
        print_json(runs)
        return
    columns = ("run", "status", "rounds", "of", "created (UTC)", "bundle")
    print_table(columns, ((*_standing(run), moment(run["started"]), run["bundle"][:_SHOWN_ID]) for run in runs))


def _show(link: Link, arguments: argparse.Namespace) -> None:
    _print_run(link.get(f"runs/{arguments.run}"), arguments, whole=True)


def _create(link: Link, arguments: argparse.Namespace) -> None:
    config = _config(arguments)
    folder = Path(arguments.bundle)
    bundle = _upload(link, folder) if folder.is_dir() else arguments.bundle
    run = link.post("runs", {"run": arguments.run, "bundle": bundle, "config": config})
    if arguments.test is not None:
        with arguments.test.open("rb") as file:
            run = link.upload(f"runs/{arguments.run}/held-out", file)
    if arguments.start:
        run = link.post(f"runs/{arguments.run}/start")
    _print_run(run, arguments)


def _order(link: Link, arguments: argparse.Namespace) -> None:
    _print_run(link.post(f"runs/{arguments.run}/{arguments.order}"), arguments)


def _clone(link: Link, arguments: argparse.Namespace) -> None:
    _print_run(link.post(f"runs/{arguments.run}/clone", {"run": arguments.new}), arguments)


def _rounds(link: Link, arguments: argparse.Namespace) -> None:
    rounds = list(link.all(f"runs/{arguments.run}/rounds"))
    if arguments.json:
        print_json(rounds)
        return
    columns = ("round", "heard", "late", "refused", "accuracy", "loss", "kB up", "kB down", "s")
    print_table(columns, map(_cells, rounds))


def _watch(link: Link, arguments: argparse.Namespace) -> None:
    after = 0
    while True:
        run = link.get(f"runs/{arguments.run}")  # before its rounds: none closes once it is over
        for record in link.all(f"runs/{arguments.run}/rounds", after=after):
            after = record["round"]
            _print_round(record, arguments)
        if run["status"] in _OVER:
            if not arguments.json:
                _print_run(run, arguments)
            return
        time.sleep(_POLL_SECONDS)


def _print_round(record: Json, arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json(record)
        return
    number, heard, late, refused, accuracy, loss, up, down, seconds = _cells(record)
    figures = (("accuracy", accuracy), ("loss", loss), ("kB up", up), ("kB down", down), ("s", seconds))
    told = "".join(f", {name} {value}" for name, value in figures if value is not None)
    sys.stdout.write(f"round {number}: heard {heard}, late {late}, refused {refused}{told}\n")
    sys.stdout.flush()


def _cells(record: Json) -> tuple[object, ...]:
    accuracy, loss = (None if record[name] is None else f"{record[name]:.4f}" for name in ("accuracy", "loss"))
    heard = (record["round"], record["updates_accepted"], record["updates_late"], record["updates_rejected"])
    kilobytes = (f"{record[name] / 1000:.1f}" for name in ("bytes_up", "bytes_down"))
    return (*heard, accuracy, loss, *kilobytes, f"{record['seconds']:.1f}")


def _standing(run: Json) -> tuple[object, ...]:
    return run["run"], run["status"], run["rounds_closed"], run["config"].get("rounds")


def _print_run(run: Json, arguments: argparse.Namespace, whole: bool = False) -> None:
    if arguments.json:
        print_json(run)
        return
    name, status, closed, planned = _standing(run)
    reason = f": {run['reason']}" if run["reason"] else ""
    sys.stdout.write(f"run {name} is {status}{reason}; {closed} of {planned} rounds are closed\n")
    if whole:
        rows = [("bundle", run["bundle"]), ("created (UTC)", moment(run["started"])), *run["config"].items()]
        print_table(("", ""), rows)


def _upload(link: Link, folder: Path) -> str:
    with TemporaryFile() as file:
        with tarfile.open(fileobj=file, mode="w:gz") as packed:
            packed.add(folder, ".")
        file.seek(0)
        return str(link.upload("bundles", file)["id"])


def _config(arguments: argparse.Namespace) -> dict[str, Any]:
    config: dict[str, Any] = {}
    if arguments.config is not None:
        config = _toml(arguments.config.read_text(), str(arguments.config))
    for assignment in arguments.set:
        name, equals, text = assignment.partition("=")
        require(bool(name and equals), "set", assignment, "NAME=VALUE")
        *path, last = name.split(".")
        place = config
        for part in path:
            place = place.setdefault(part, {})
            require(isinstance(place, dict), "set", assignment, f"of a table, as {part} has one value")
        place[last] = _value(text)
    return config


def _value(text: str) -> Any:
    """A value as TOML has it; what is none is a text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _toml(text: str, path: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidValueError(f"{path} cannot be read as TOML: {error}") from error


if __name__ == "__main__":
    sys.exit(main())
