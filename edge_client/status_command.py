"""`fisherfleet-edge status`: what the device does now, as it tells itself, and what its state folder holds.

Exit status: 0 where it runs and has its link; 1 where it runs without one; 3 where it does not run (as of a service's
status in the Linux Standard Base); 2 for a mistake. Nothing is written.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_client.config import DeviceConfig, load_config
from edge_client.config_option import add_config_option
from edge_client.credentials import FLEET_FILE
from edge_client.device_memory import load_memory
from edge_client.device_status import Report, Waiting, describe
from edge_client.outbox import SUFFIX
from edge_client.privacy.ledger import read_ledger
from edge_client.privacy.status import status_of
from edge_client.status_socket import ask
from wire_protocol.errors import FisherfleetError
from wire_protocol.identity import IdentityError, load_fleet

NO_LINK, EXIT_REFUSED, NOT_RUNNING = 1, 2, 3


def main(argv: Sequence[str], prog: str) -> int:
    """Print it; returns the exit status."""
    arguments = _parser(prog).parse_args(argv)
    try:
        report = make_report(load_config(arguments.config))
    except FisherfleetError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return EXIT_REFUSED
    text = msgspec.json.format(msgspec.json.encode(report)).decode() + "\n" if arguments.json else describe(report)
    sys.stdout.write(text)
    running = report.running
    return NOT_RUNNING if running is None else 0 if running.linked else NO_LINK


def make_report(config: DeviceConfig) -> Report:
    """What the device says, and what is on its disk; both may be missing."""
    return Report(
        device=config.device,
        running=ask(config.state),
        waiting=_waiting(config.state / "outbox"),
        answered=_answered(config),
        epsilon=_epsilon(config),
        epsilon_allowed=config.privacy.epsilon,
    )


def _waiting(outbox: Path) -> Waiting:
    sizes = [_size(path) for path in outbox.glob(f"*{SUFFIX}")]
    return Waiting(sum(size is not None for size in sizes), sum(size or 0 for size in sizes))


def _size(path: Path) -> int | None:
    """None where it was sent meanwhile."""
    try:
        return path.stat().st_size
    except OSError:
        return None


def _answered(config: DeviceConfig) -> dict[str, int]:
    try:
        fleet = load_fleet(config.identity / FLEET_FILE)
    except IdentityError:
        return {}
    return dict(load_memory(config.state / "memory", fleet.name).newest)


def _epsilon(config: DeviceConfig) -> float | None:
    try:
        return status_of(read_ledger(config.state), config.privacy).epsilon
    except FisherfleetError:
        return None


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="What the device does now and what waits to be sent. Exit status 0: it runs and is connected; "
        "1: it runs, without a link; 3: it does not run.",
    )
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
