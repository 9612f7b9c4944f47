"""`fisherfleet broker-config`: write a broker's configuration and access rules for a fleet.

Exit status: 0, or 2 for a mistake that a line on stderr explains.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath

from devices.brokers import aws_iot, emqx, mosquitto
from devices.provisioning.enrolment import MQTTS_PORT, list_devices
from server.fleet.authority_folder import AUTHORITY_CERTIFICATE, CERTIFICATE, KEY, REVOKED
from server.fleet.durable_files import PRIVATE, PUBLIC, make_folder, write_file
from server.fleet.fleet_folder import FleetFolder, open_fleet
from wire_protocol.errors import FisherfleetError, require

EXIT_REFUSED = 2
_SYSTEM_DATA = PurePath("/var/lib/mosquitto")


@dataclass(frozen=True)
class Order:
    """Write into `out`; on the broker's machine these files will be in `place`."""

    fleet: FleetFolder
    out: Path
    place: PurePath
    port: int


def main(argv: Sequence[str] | None = None) -> int:
    """Write the files; returns the exit status."""
    arguments = command_parser().parse_args(argv)
    try:
        order = _order(arguments)
        sys.stdout.write(f"{_WRITERS[arguments.kind](order)}\n")
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet broker-config: {error}\n")
        return EXIT_REFUSED
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet broker-config",
        description="Write an MQTT broker's configuration and access rules for a fleet: TLS with a certificate for "
        "each device, each device's topics its own, and nothing dropped without a word.",
    )
    parser.add_argument("kind", choices=tuple(_WRITERS), help="which broker")
    parser.add_argument("--fleet", type=Path, default=Path("fleet"), help="the fleet's folder (default: %(default)s)")
    parser.add_argument("--out", type=Path, help="folder to write to (default: broker/ in the fleet's folder)")
    parser.add_argument(
        "--install-path", type=PurePath, help="where these files will be on the broker's machine (default: --out)"
    )
    parser.add_argument("--port", type=int, default=MQTTS_PORT, help="port to listen on (default: %(default)s)")
    return parser


def _order(arguments: argparse.Namespace) -> Order:
    require(1 <= arguments.port <= 65535, "port", arguments.port, "1 to 65535")
    fleet = open_fleet(arguments.fleet)
    out: Path = arguments.out or fleet.broker
    place: PurePath = arguments.install_path or PurePath(out.resolve())
    require(place.is_absolute(), "install-path", str(place), "an absolute path")
    require(not any(letter in str(place) for letter in '\n"'), "install-path", str(place), "without quotes")
    make_folder(out)
    return Order(fleet, out, place, arguments.port)


def _write_mosquitto(order: Order) -> str:
    copied = _copy_certificates(order)
    here = order.place == PurePath(order.out.resolve())
    data = order.place / "data" if here else _SYSTEM_DATA
    if here:
        make_folder(order.out / "data")
    content = mosquitto.configuration(order.place, data, order.port)
    _write(order, mosquitto.CONFIGURATION, content)
    _write(order, mosquitto.RULES, mosquitto.access_rules())
    start = f"start it with: mosquitto -c {order.place / mosquitto.CONFIGURATION}"
    owner = "started by root it becomes the user mosquitto, who must own these files"
    return _said(order, [*copied, mosquitto.CONFIGURATION, mosquitto.RULES], f"{start} ({owner})")


def _write_emqx(order: Order) -> str:
    copied = _copy_certificates(order)
    revoked = [member.name for member in list_devices(order.fleet) if member.revoked]
    _write(order, emqx.CONFIGURATION, emqx.configuration(order.place, order.port))
    _write(order, emqx.RULES, emqx.access_rules(revoked))
    then = f"append {emqx.CONFIGURATION} to EMQX's own; run this again after `fisherfleet fleet revoke`"
    return _said(order, [*copied, emqx.CONFIGURATION, emqx.RULES], then)


def _write_aws_iot(order: Order) -> str:
    devices = [member for member in list_devices(order.fleet) if not member.revoked and member.certificate_ends]
    files = [(member.name, str((order.fleet.identity(member.name) / CERTIFICATE).resolve())) for member in devices]
    _write(order, aws_iot.DEVICE_POLICY, aws_iot.policy("device", aws_iot.Place()))
    _write(order, aws_iot.SERVER_POLICY, aws_iot.policy("server", aws_iot.Place()))
    server = str((order.fleet.server / CERTIFICATE).resolve())
    _write(order, aws_iot.STEPS, aws_iot.registration(files, server), mode=0o755)
    names = [aws_iot.DEVICE_POLICY, aws_iot.SERVER_POLICY, aws_iot.STEPS]
    return _said(order, names, f"read {aws_iot.STEPS}, then run it there: it makes a thing for each device")


_WRITERS: dict[str, Callable[[Order], str]] = {
    "mosquitto": _write_mosquitto,
    "emqx": _write_emqx,
    "aws-iot": _write_aws_iot,
}


def _copy_certificates(order: Order) -> list[str]:
    """Bring the broker's certificates into `out`, which then is all that the broker needs."""
    names = [AUTHORITY_CERTIFICATE, CERTIFICATE, KEY, REVOKED]
    for name in names:
        content = (order.fleet.broker / name).read_bytes()
        write_file(order.out / name, content, mode=PRIVATE if name == KEY else PUBLIC)
    return names


def _write(order: Order, name: str, content: str, mode: int = PUBLIC) -> None:
    write_file(order.out / name, content.encode(), mode=mode)


def _said(order: Order, names: Sequence[str], then: str) -> str:
    return f"wrote {', '.join(names)} to {order.out}; {then}"


if __name__ == "__main__":
    sys.exit(main())
