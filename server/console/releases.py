"""`fisherfleet devices update`, `updates` and `halt-update`: releases of the client, over the server's interface."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path
from typing import Any

from server.console.arguments import add_command, share
from server.console.link import Link, LinkedError
from server.console.output import moment, print_json, print_table
from wire_protocol.release_version import is_version

_ROLLOUT_COLUMNS = ("update", "release", "for", "status", "devices", "offered", "confirmed", "trying", "failed", "")
_REPORT_COLUMNS = ("device", "runs", "offered", "status", "models", "said (UTC)", "")


def add_commands(commands: Any) -> None:
    """Add the commands about releases to those of `fisherfleet devices`."""
    update = add_command(commands, "update", _update, "offer devices a release of the client")
    update.add_argument(
        "releases", nargs="+", metavar="RELEASE", help="files of one version, or the version of some that are there"
    )
    whom = update.add_mutually_exclusive_group()
    whom.add_argument("--devices", nargs="+", metavar="NAME", default=[], help="to these (default: to all)")
    whom.add_argument("--tag", help="to those with this tag")
    update.add_argument(
        "--fraction",
        type=share,
        default=1.0,
        metavar="SHARE",
        help="of them first; the rest when nine of ten of those have proven it (default: %(default)g)",
    )
    update.add_argument(
        "--halt-at",
        type=partial(share, above_zero=False),
        default=0.1,
        metavar="SHARE",
        help="offer it no longer when more of those that took it say that it failed (default: %(default)g)",
    )
    update.add_argument("--again", action="store_true", help="also to devices on which this version failed")
    add_command(commands, "updates", _updates, "list offers of releases, and what each device runs")
    halt = add_command(commands, "halt-update", _halt, "offer a release no longer")
    halt.add_argument("update", type=int, metavar="NUMBER", help="as `updates` lists it")


def _update(link: Link, arguments: argparse.Namespace) -> None:
    version = _version_of(link, arguments.releases)
    order = {name: getattr(arguments, name) for name in ("devices", "tag", "fraction", "halt_at", "again")}
    made = link.post("rollouts", {"version": version, **order})
    if arguments.json:
        print_json(made)
    else:
        first = "" if made["offered"] == made["members"] else f", first to {made['offered']}"
        sys.stdout.write(
            f"update {made['id']}: release {version} is offered to {made['members']} devices{first}\n"
            "`fisherfleet devices updates` shows who has it\n"
        )
        if made["tag"] is not None and not made["members"]:
            later = "those that get it later are offered it within an hour"
            sys.stdout.write(f"no enrolled device has the tag {made['tag']!r} now; {later}\n")


def _version_of(link: Link, releases: list[str]) -> str:
    """The version that is named, or that of the files, which are uploaded."""
    versions = set()
    for one in releases:
        if is_version(one) and not Path(one).exists():
            versions.add(one)
            continue
        try:
            with Path(one).open("rb") as file:
                versions.add(link.upload("releases", file)["version"])
        except LinkedError as error:
            raise LinkedError(f"{one} was not taken: {error}") from error
    if len(versions) != 1:
        raise LinkedError(f"the releases must be of one version, got {', '.join(sorted(versions))}")
    return str(versions.pop())


def _updates(link: Link, arguments: argparse.Namespace) -> None:
    rollouts, reports = list(link.all("rollouts")), list(link.all("release-reports"))
    if arguments.json:
        print_json({"updates": rollouts, "devices": reports})
        return
    print_table(_ROLLOUT_COLUMNS, map(_rollout_cells, rollouts))
    sys.stdout.write("\n")
    print_table(_REPORT_COLUMNS, map(_report_cells, reports))


def _rollout_cells(one: Any) -> tuple[object, ...]:
    whom = one["tag"] or ", ".join(one["devices"]) or "all"
    counts = (one[name] for name in ("members", "offered", "confirmed", "trying", "failed"))
    return one["id"], one["version"], whom, one["status"], *counts, one["reason"]


def _report_cells(one: Any) -> tuple[object, ...]:
    models = ", ".join(f"{run} {version}" for run, version in sorted(one["models"].items()))
    said = moment(one["at"])
    return one["device"], one["version"], one["offered"], one["status"], models, said, one["reason"]


def _halt(link: Link, arguments: argparse.Namespace) -> None:
    halted = link.post(f"rollouts/{arguments.update}/halt")
    if arguments.json:
        print_json(halted)
    else:
        sys.stdout.write(f"release {halted['version']} is offered no longer; {halted['confirmed']} devices keep it\n")
