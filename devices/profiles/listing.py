"""`fisherfleet devices profiles`: the kinds of devices that `fisherfleet simulate` knows."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from devices.profiles.profile import Profile, load_profiles
from wire_protocol.errors import FisherfleetError

USAGE_ERROR = 2
WIDTH_IN_FILES = 120


def print_profiles(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    try:
        profiles = list(load_profiles().values())
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet devices: {error}\n")
        return USAGE_ERROR
    if arguments.json:
        sys.stdout.write(json.dumps([asdict(profile) for profile in profiles], indent=2) + "\n")
    else:
        Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES, highlight=False).print(_table(profiles))
    return 0


def _table(profiles: Sequence[Profile]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("profile", no_wrap=True)
    table.add_column("board")
    for name in ("cores", "MB", "GMAC/s a thread", "Mbit/s up", "down", "watts idle", "busy"):
        table.add_column(name, justify="right")
    for profile in profiles:
        table.add_row(profile.id, profile.name, *_figures(profile))
    return table


def _figures(profile: Profile) -> list[str]:
    figures = (
        profile.cores,
        profile.memory_mb,
        profile.compute.multiply_accumulates / 1e9,
        profile.link.up_bits / 1e6,
        profile.link.down_bits / 1e6,
        profile.power.idle_watts,
        profile.power.busy_watts,
    )
    return [f"{figure:g}" for figure in figures]


def add_profiles(commands: Any) -> None:
    """Add the command to those of `fisherfleet devices`."""
    profiles = commands.add_parser("profiles", help="list the kinds of devices that can be simulated")
    profiles.add_argument("--json", action="store_true", help="print all figures and their sources as JSON")
    profiles.set_defaults(run=print_profiles)
