"""`fisherfleet devices provision`: folders for one device or a hundred, each ready to be flashed.

No secret is printed. Exit status: 0, or 2 for a mistake that a line on stderr explains; nothing is made before all that
was asked for has been read and found right.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from devices.flashing.device_folder import CONFIG, ENROLMENT
from devices.provisioning.device_list import WantedDevice, named, numbered, profile_named, read_csv
from devices.provisioning.enrolment import Surroundings, addresses
from devices.provisioning.provision import provision_with_keys, provision_with_tokens
from devices.provisioning.provision_advice import Told, provisioned
from edge_client.config import require_server_url
from edge_client.updates.consent import Consent
from server.console.link import DEFAULT_SERVER, SERVER_VARIABLE, Link, with_link
from server.errors import ProvisioningError
from server.fleet.durable_files import locked
from server.fleet.fleet_folder import FleetFolder, open_fleet
from wire_protocol.errors import FisherfleetError, require

EXIT_REFUSED = 2
_PROGRAM = "fisherfleet devices provision"
_HOURS = 72.0


def add_provision(commands: Any) -> None:
    """Add the command to those of `fisherfleet devices`."""
    text = "make folders for new devices, ready to be flashed"
    made = commands.add_parser("provision", help=text, description=f"{text[0].upper()}{text[1:]}.")
    made.set_defaults(run=provision_devices)
    _add_who(made)
    made.add_argument("--fleet", type=Path, required=True, metavar="FOLDER", help="the fleet's folder")
    made.add_argument("--server", metavar="URL", help="of the server as devices reach it (default: the fleet's host)")
    made.add_argument(
        "--broker",
        metavar="URL",
        help="of the broker as devices reach it (default: the fleet's host; with --token as the server reaches it)",
    )
    made.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the devices' folders (default: devices/ of the fleet's)"
    )
    made.add_argument(
        "--updates",
        action="append",
        default=[],
        choices=[field.name for field in fields(Consent)],
        help="let the operator put releases of the client, or promoted models, on the devices: once for each",
    )
    _add_tokens(made)


def _add_who(made: argparse.ArgumentParser) -> None:
    made.add_argument("names", nargs="*", metavar="NAME", help="name of a device")
    made.add_argument("--count", type=int, metavar="N", help="so many devices, with numbers for names")
    made.add_argument("--prefix", default="device-", help="what such a name begins with (default: %(default)s)")
    made.add_argument(
        "--csv", type=Path, metavar="FILE", help="a line for each device: name, and what else its head names"
    )
    made.add_argument("--profile", metavar="NAME", help="kind of the devices: see fisherfleet devices profiles")
    made.add_argument(
        "--data", type=Path, metavar="FILE|DIR", help="a device's examples (.npz), or a folder with NAME.npz for each"
    )


def _add_tokens(made: argparse.ArgumentParser) -> None:
    made.add_argument(
        "--token",
        action="store_true",
        help="put a one-time token of the running server in place of keys, which the device makes at its first start",
    )
    made.add_argument("--hours", type=float, default=_HOURS, help="how long a token lasts (default: %(default)g)")
    made.add_argument(
        "--api", metavar="URL", help=f"of the server from here (default: ${SERVER_VARIABLE}, else {DEFAULT_SERVER})"
    )
    made.add_argument(
        "--ca-file",
        type=Path,
        metavar="FILE",
        help="certificates (PEM) that may have signed the server's (default: the fleet's)",
    )


def provision_devices(arguments: argparse.Namespace) -> int:
    """Run the command; returns its exit status."""
    updates = Consent(**dict.fromkeys(arguments.updates, True))
    try:
        folder, wanted = open_fleet(arguments.fleet), _wanted(arguments)
        out = arguments.out or folder.devices
        around = Surroundings(arguments.broker, arguments.server and require_server_url(arguments.server))
        broker, server = addresses(folder, around)
        if not arguments.token:
            new = _with_keys(folder, wanted, around, out, updates)
            told = Told(server, broker, arguments.broker is None, folder.device("NAME") / CONFIG)
            return _say(provisioned(wanted, new, out, told))
        authority = _authority(arguments.ca_file or folder.broker / "ca.pem") if server[:6] == "https:" else None
    except FisherfleetError as error:
        sys.stderr.write(f"{_PROGRAM}: {error}\n")
        return EXIT_REFUSED

    def with_tokens(link: Link) -> None:
        offer = {"devices": 1, "hours": arguments.hours, "broker": arguments.broker}

        def token(name: str) -> str:
            return str(link.post("enrolments", offer | {"device": name})["token"])

        new = provision_with_tokens(wanted, server, authority, out, token, updates)
        _say(provisioned(wanted, new, out, Told(server, arguments.broker, False, out / "NAME" / ENROLMENT)))

    return with_link(_PROGRAM, arguments.api, with_tokens)


def _wanted(arguments: argparse.Namespace) -> list[WantedDevice]:
    ways = [bool(arguments.names), arguments.count is not None, arguments.csv is not None]
    if sum(ways) != 1:
        raise ProvisioningError("say which devices by one of NAME..., --count or --csv")
    profile = None if arguments.profile is None else profile_named(arguments.profile)
    if arguments.csv is not None:
        require(arguments.data is None, "data", str(arguments.data), "a column of the CSV file, not an option")
        return read_csv(arguments.csv, profile)
    if profile is None:
        raise ProvisioningError("--profile is missing; fisherfleet devices profiles lists them")
    names = arguments.names or numbered(arguments.prefix, arguments.count)
    return named(names, profile, arguments.data)


def _with_keys(
    folder: FleetFolder, wanted: Sequence[WantedDevice], around: Surroundings, out: Path, updates: Consent
) -> list[str]:
    with locked(folder.path):
        return provision_with_keys(folder, wanted, around, out, datetime.now(UTC), updates)


def _authority(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ProvisioningError(f"{path} cannot be read: {error.strerror}") from error


def _say(words: str) -> int:
    sys.stdout.write(f"{words}\n")
    return 0
