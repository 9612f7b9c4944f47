"""`fisherfleet models`: a run's archived model versions, over the server's HTTP interface."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from server.console.arguments import Action, add_command, new_command
from server.console.link import Link, with_link
from server.console.output import moment, print_json, print_table

_PROGRAM = "fisherfleet models"
_FILES = {"onnx": "predict.onnx", "safetensors": "model.safetensors"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    arguments = command_parser().parse_args(argv)
    return with_link(_PROGRAM, arguments.server, lambda link: arguments.action(link, arguments))


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    made, commands = new_command(_PROGRAM, "Versions of a run's model that the server has archived.")
    add_command(commands, "list", _list, "list a run's archived versions", "run")
    download = _of_version(commands, "download", _download, "fetch a version")
    download.add_argument("--format", choices=tuple(_FILES), default="onnx", help="default: %(default)s")
    download.add_argument("--out", type=Path, metavar="FILE", help="where to (default: predict.onnx, ...)")
    _of_version(commands, "promote", _promote, "make a version the run's one for inference")
    _of_version(commands, "roll-back", _roll_back, "start the next round from a version")
    return made


def _of_version(commands: Any, name: str, action: Action, text: str) -> argparse.ArgumentParser:
    made = add_command(commands, name, action, text, "run")
    kind = "number, or promoted" if action is _download else "number"
    made.add_argument("version", metavar="VERSION", help=f"the version's {kind}")
    return made


def _list(link: Link, arguments: argparse.Namespace) -> None:
    versions = list(link.all(f"runs/{arguments.run}/models"))
    if arguments.json:
        print_json(versions)
        return
    columns = ("version", "round", "accuracy", "loss", "kB", "made (UTC)", "")
    print_table(
        columns,
        (
            (
                one["version"],
                one["round"],
                *(None if one[name] is None else f"{one[name]:.4f}" for name in ("accuracy", "loss")),
                f"{one['size'] / 1000:.1f}",
                moment(one["at"]),
                "promoted" if one["promoted"] else "",
            )
            for one in versions
        ),
    )


def _download(link: Link, arguments: argparse.Namespace) -> None:
    version, file = arguments.version, _FILES[arguments.format]
    if version == "promoted":
        version = link.get(f"runs/{arguments.run}/models/promoted")["version"]
    target = arguments.out or Path(file)
    size = link.download(f"runs/{arguments.run}/models/{version}/{file}", target)
    if arguments.json:
        print_json({"run": arguments.run, "version": int(version), "path": str(target), "bytes": size})
    else:
        sys.stdout.write(f"version {version} of run {arguments.run} is in {target} ({size / 1000:.1f} kB)\n")


def _promote(link: Link, arguments: argparse.Namespace) -> None:
    promoted = link.post(f"runs/{arguments.run}/models/{arguments.version}/promote")
    if arguments.json:
        print_json(promoted)
    else:
        sys.stdout.write(f"version {promoted['version']} of run {arguments.run} is promoted\n")


def _roll_back(link: Link, arguments: argparse.Namespace) -> None:
    run = link.post(f"runs/{arguments.run}/roll-back", {"version": arguments.version})
    if arguments.json:
        print_json(run)
    else:
        sys.stdout.write(f"the next round of run {arguments.run} starts from version {arguments.version}\n")


if __name__ == "__main__":
    sys.exit(main())
