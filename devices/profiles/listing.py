"""`fisherfleet devices profiles`: kinds of devices, what they run, and what `devices provision` lets them spend."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from devices.flashing.client_packages import locked_requirements
from devices.flashing.systems import SYSTEMS
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
        described = [asdict(profile) | {"software": _software(profile)} for profile in profiles]
        sys.stdout.write(json.dumps(described, indent=2) + "\n")
    else:
        console = Console(width=None if sys.stdout.isatty() else WIDTH_IN_FILES, highlight=False)
        console.print(_table(profiles))
        console.print()
        console.print(_training_table(profiles))
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


def _training_table(profiles: Sequence[Profile]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("profile", no_wrap=True)
    table.add_column("runs (Python, onnxruntime)")
    for name in ("threads", "limits: MB", "degrees C"):
        table.add_column(name, justify="right")
    for profile in profiles:
        training = profile.training
        runs = [f"{name} ({one['python']}, {one['onnxruntime']})" for name, one in _software(profile).items()]
        hottest = "-" if training.max_temperature is None else f"{training.max_temperature:g}"
        figures = (f"{training.threads}", f"{training.memory_mb}", hottest)
        table.add_row(profile.id, "\n".join(runs), *figures)
    return table


def _software(profile: Profile) -> dict[str, dict[str, str]]:
    """By system, the Python that it has and the onnxruntime that is installed there."""
    found = {}
    for name in profile.systems:
        pins = dict(pin.split("==") for pin in locked_requirements(SYSTEMS[name]))
        found[name] = {"python": SYSTEMS[name].python, "onnxruntime": pins["onnxruntime"]}
    return found


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
    profiles = commands.add_parser("profiles", help="list kinds of devices: what they can do, run and may spend")
    profiles.add_argument("--json", action="store_true", help="print all figures and their sources as JSON")
    profiles.set_defaults(run=print_profiles)
