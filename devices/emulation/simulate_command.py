"""`fisherfleet simulate`: train thousands of virtual devices, unequal ones, on a virtual clock."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from typing import Any, get_args

from rich.console import Console
from rich.table import Table

from devices.emulation.conclusion import Finished, conclude
from devices.emulation.engines import EngineName
from devices.emulation.fleet_account import LATE
from devices.emulation.live_view import LiveView, row_of
from devices.emulation.quantities import format_bytes, format_energy, format_seconds, format_share
from devices.emulation.report import KindEntry, Simulation, VirtualRound, unheard
from devices.emulation.run_options import PRINT, OptionGroups, add_run_options, take_settings, write_json
from devices.emulation.settings import USUAL_MIX, SimulationSettings
from devices.emulation.simulate import prepare, simulate
from devices.emulation.simulation import SimulatedRound
from devices.emulation.virtual_fleet import LinkRange
from devices.profiles.profile import load_profiles
from wire_protocol.errors import FisherfleetError, InvalidValueError

USAGE_ERROR = 2
INTERRUPTED = 130
"""Exit status of a program ended by Ctrl-C: 128 + SIGINT."""

_RATE = re.compile(r"([0-9]+(?:\.[0-9]+)?)([kM]?)")
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = vars(command_parser().parse_args(argv))
    json_target = options.pop("json")
    if options.pop("full"):
        options |= {"selection": "full", "fit": False}
    console = Console(stderr=json_target == PRINT, highlight=False)
    try:
        finished = _run(SimulationSettings(**take_settings(options)), console)
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet simulate: {error}\n")
        return USAGE_ERROR
    conclude(finished, console)
    sys.stdout.write(write_json(finished.report, json_target))
    return INTERRUPTED if finished.interrupted else 0


def _run(settings: SimulationSettings, console: Console) -> Finished:
    with LiveView(console, settings.rounds) as view:
        view.status("preparing data and model")
        prepared = prepare(settings)
        view.status(f"training {len(prepared.fleet)} virtual devices")

        def show(closed: SimulatedRound, entry: VirtualRound) -> None:
            view.round_closed(row_of(closed.record, entry.turns, _remark(entry)))

        finished = simulate(prepared, show)
    assert isinstance(finished.report.simulation, Simulation)
    _print_kinds(finished.report.simulation, console)
    return finished


def _remark(entry: VirtualRound) -> str:
    late = sum(entry.fates[fate] for fate in LATE)
    return f"{late} late, at {format_seconds(entry.closed)}"


def _print_kinds(simulation: Simulation, console: Console) -> None:
    console.print(
        f"{format_seconds(simulation.seconds)} of fleet time, {format_share(simulation.heard)} of turns heard, "
        f"about {format_energy(simulation.joules)}"
    )
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("profile", no_wrap=True)
    for name in ("devices", "heard", "kept", "up", "down", "energy"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind in simulation.kinds:
        table.add_row(kind.profile, *_cells(kind))
    console.print(table)
    for kind in simulation.kinds:
        if words := unheard(kind.fates):
            console.print(f"{kind.profile} not heard: {words}", soft_wrap=True)


def _cells(kind: KindEntry) -> list[str]:
    return [
        str(kind.devices),
        f"{kind.fates['heard']}/{kind.turns}",
        format_share(kind.kept),
        format_bytes(kind.bytes_up),
        format_bytes(kind.bytes_down),
        format_energy(kind.joules),
    ]


def _mix(text: str) -> dict[str, float]:
    """`profile=share,...`."""
    mix: dict[str, float] = {}
    for part in text.split(","):
        name, equals, share = part.partition("=")
        try:
            mix[name.strip()] = float(share) if equals else 1.0
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be profile=share,profile=share,..., got {text!r}") from error
    return mix


def _link(text: str) -> LinkRange | None:
    """`250k-20M`, one rate, or `profile`."""
    if text == "profile":
        return None
    ends = [_RATE.fullmatch(end) for end in text.split("-")]
    found = [float(end[1]) * _FACTORS[end[2]] for end in ends if end is not None]
    if len(found) != len(ends) or len(found) > 2:
        raise argparse.ArgumentTypeError(f"must be bits a second as 250k-20M or 1M, or profile, got {text!r}")
    try:
        return LinkRange(found[0], found[-1])
    except InvalidValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet simulate",
        description="Train thousands of virtual devices: real training and the server's and devices' own decisions, "
        "with time computed from what each kind of device can do and how fast its link is. Results go to a folder with "
        "report.html, report.json, predict.onnx and model.safetensors.",
    )
    groups = add_run_options(parser, SimulationSettings)
    _add_fleet_options(groups)
    _add_work_options(groups)
    return parser


def _add_fleet_options(groups: OptionGroups) -> None:
    fleet: Any = groups.fleet
    usual = ",".join(f"{name}={share:g}" for name, share in USUAL_MIX.items())
    fleet.add_argument(
        "--mix",
        type=_mix,
        default=USUAL_MIX,
        metavar="PROFILE=SHARE,...",
        help=f"kinds of devices and their shares, of {', '.join(load_profiles())} (default: {usual})",
    )
    fleet.add_argument(
        "--link",
        type=_link,
        metavar="BITS-BITS",
        help="bits a second of devices' links, drawn log-uniformly, as 250k-20M (default: profile, what each kind has)",
    )
    groups.option(fleet, "availability", "part of the time that a device is there, above 0 and at most 1", type=float)
    groups.option(fleet, "period", "seconds from a device's coming to its next one, on average", type=float)
    groups.option(fleet, "round_seconds", "deadline of a round", type=float)
    groups.data.add_argument(
        "--examples", type=int, help="examples each device draws from all (default: all examples are dealt out)"
    )


def _add_work_options(groups: OptionGroups) -> None:
    training: Any = groups.training
    training.add_argument(
        "--fit",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="devices train as much of the model as they can afford by the deadline (default: %(default)s)",
    )
    training.add_argument("--full", action="store_true", help="full models on every device: --selection full --no-fit")
    groups.option(groups.output, "workers", "processes, or Ray actors, that compute the devices", type=int)
    groups.option(groups.output, "engine", "where they run", choices=get_args(EngineName))


if __name__ == "__main__":
    sys.exit(main())
