"""`fisherfleet fleet`: make a fleet's keys and certificates, add, list and revoke devices, change keys.

Every command can be repeated and then changes nothing more. Exit status: 0, or 2 for a mistake that a line on stderr
explains. No private key is ever printed.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from devices.provisioning import advice
from devices.provisioning.enrolment import Surroundings, add_devices, certificate_end, list_devices
from devices.provisioning.rotation import (
    begin_device_rotation,
    begin_operator_rotation,
    finish_device_rotation,
    finish_operator_rotation,
    renew_certificates,
)
from server.fleet.certificates import require_host
from server.fleet.durable_files import locked
from server.fleet.fleet_folder import (
    CERTIFICATE_DAYS,
    OPERATOR,
    create_fleet,
    open_fleet,
    operator_identities,
)
from server.fleet.membership import revoke_device
from wire_protocol.errors import FisherfleetError, require
from wire_protocol.identity import load_fleet
from wire_protocol.topics import require_identifier

EXIT_REFUSED = 2
RENEW_DAYS = 90.0
_MOST_DAYS = 20 * 365.0

Words = str


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command of `fisherfleet fleet`; returns the exit status."""
    arguments = command_parser().parse_args(argv)
    try:
        days = getattr(arguments, "days", 1.0)
        require(0 < days <= _MOST_DAYS, "days", days, f"above 0, at most {_MOST_DAYS:g}")
        words: Words = arguments.run(arguments, datetime.now(UTC))
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet fleet: {error}\n")
        return EXIT_REFUSED
    sys.stdout.write(f"{words}\n")
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet fleet", description="Keys and certificates of a fleet, kept in one folder of the operator's."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_init, _add_add, _add_list, _add_revoke, _add_rotate, _add_renew):
        add(commands)
    return parser


def _command(commands: Any, name: str, run: Callable[..., Words], text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="the fleet's folder")
    parser.set_defaults(run=run)
    return parser


def _add_days(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--days",
        type=float,
        default=CERTIFICATE_DAYS,
        help="how long new certificates last, in days (default: %(default)g)",
    )


def _add_init(commands: Any) -> None:
    parser = _command(commands, "init", _init, "make a fleet folder: the operator's keys and a certificate authority")
    parser.add_argument("--name", help="name of the fleet (default: the folder's name)")
    parser.add_argument(
        "--host",
        action="append",
        default=[],
        metavar="HOST",
        help="name or address that the broker is reached at; may be repeated (default: this machine's name)",
    )
    _add_days(parser)


def _add_add(commands: Any) -> None:
    parser = _command(commands, "add", _add, "add devices: a folder to copy to each, with its keys and device.toml")
    parser.add_argument("names", nargs="+", metavar="NAME", help="name of a device")
    parser.add_argument("--broker", metavar="URL", help="mqtts://host[:port] (default: the fleet's first --host)")
    parser.add_argument("--server", metavar="URL", help="http://host:port (default: the same host, port 8765)")
    parser.add_argument("--replace", action="store_true", help="give a revoked device's name to a new device")
    _add_days(parser)


def _add_list(commands: Any) -> None:
    parser = _command(commands, "list", _list, "list the devices, their keys and when their certificates end")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _add_revoke(commands: Any) -> None:
    parser = _command(commands, "revoke", _revoke, "take a lost or stolen device out of the fleet")
    parser.add_argument("name", metavar="NAME", help="name of the device")


def _add_rotate(commands: Any) -> None:
    parser = _command(commands, "rotate", _rotate, "change keys: both are valid until you run it again with --finish")
    parser.add_argument("name", metavar="operator|NAME", help="whose keys: the operator's or a device's")
    parser.add_argument("--finish", action="store_true", help="drop the old keys")
    _add_days(parser)


def _add_renew(commands: Any) -> None:
    parser = _command(commands, "renew", _renew, "renew certificates that are near their end")
    parser.add_argument(
        "names", nargs="*", metavar="broker|server|NAME", help="renew these, however long they last; else all near"
    )
    parser.add_argument(
        "--within", type=float, default=RENEW_DAYS, metavar="DAYS", help="how near is near (default: %(default)g)"
    )
    _add_days(parser)


def _init(arguments: argparse.Namespace, now: datetime) -> Words:
    name = arguments.name or arguments.folder.resolve().name
    require_identifier("name", name)  # before anything is made
    for host in arguments.host:
        require_host(host)
    with locked(arguments.folder):
        folder = create_fleet(arguments.folder, name, tuple(arguments.host), now, arguments.days)
    return advice.initialised(folder)


def _add(arguments: argparse.Namespace, now: datetime) -> Words:
    folder = open_fleet(arguments.folder)
    around = Surroundings(arguments.broker, arguments.server, arguments.days)
    with locked(folder.path):
        new = add_devices(folder, arguments.names, around, now, replace=arguments.replace)
    return advice.added(folder, arguments.names, new)


def _list(arguments: argparse.Namespace, now: datetime) -> Words:
    folder = open_fleet(arguments.folder)
    members = list_devices(folder)
    ends = {"broker": certificate_end(folder.broker), "server": certificate_end(folder.server)}
    operator = len(operator_identities(folder))
    if not arguments.json:
        return advice.table(members, ends, operator, now)
    described = {
        "fleet": load_fleet(folder.fleet_file).name,
        "operator": {"keys": operator},
        **{name: {"certificate_ends": end.isoformat() if end else None} for name, end in ends.items()},
        "devices": [
            {
                "name": member.name,
                "keys": member.keys,
                "revoked": member.revoked,
                "certificate_ends": member.certificate_ends.isoformat() if member.certificate_ends else None,
            }
            for member in members
        ],
    }
    return json.dumps(described, indent=2)


def _revoke(arguments: argparse.Namespace, now: datetime) -> Words:
    folder = open_fleet(arguments.folder)
    with locked(folder.path):
        changed = revoke_device(folder, arguments.name, now)
    return advice.revoked(folder, arguments.name, changed)


def _rotate(arguments: argparse.Namespace, now: datetime) -> Words:
    folder, name = open_fleet(arguments.folder), arguments.name
    with locked(folder.path):
        if name == OPERATOR and arguments.finish:
            return advice.operator_finished(folder, finish_operator_rotation(folder))
        if name == OPERATOR:
            return advice.operator_begun(folder, begin_operator_rotation(folder))
        if arguments.finish:
            return advice.device_finished(folder, name, finish_device_rotation(folder, name, now))
        return advice.device_begun(folder, name, begin_device_rotation(folder, name, now, arguments.days))


def _renew(arguments: argparse.Namespace, now: datetime) -> Words:
    folder = open_fleet(arguments.folder)
    require(arguments.within > 0, "within", arguments.within, "above 0")
    with locked(folder.path):
        renewed = renew_certificates(folder, arguments.names, timedelta(days=arguments.within), now, arguments.days)
    return advice.renewed(folder, renewed, arguments.within)


if __name__ == "__main__":
    sys.exit(main())
