"""`fisherfleet doctor`: try whether a broker does what a fleet needs, and say in plain words what to change.

Exit status: 0 where it does; 1 where a fleet works, with a weakness; 2 where it does not work, or for a mistake.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from devices.doctor.examine import examine
from devices.doctor.seats import Seats, device_seats, fleet_seats, plain_seats
from devices.doctor.standing import NOTE_NAME, Memory
from edge_client.findings import Verdicts, as_json, describe, exit_status, report
from wire_protocol.broker_url import BrokerUrl, parse_broker_url
from wire_protocol.errors import FisherfleetError, require

EXIT_REFUSED = 2
DEFAULT_SECONDS = 5.0
_VERDICTS = Verdicts("does what a fleet needs", "works", "does not do what a fleet needs")


def main(argv: Sequence[str] | None = None) -> int:
    """Examine a broker; returns the exit status."""
    arguments = command_parser().parse_args(argv)
    logging.getLogger("devices.doctor.participant.paho").setLevel(logging.CRITICAL)
    try:
        require(arguments.timeout > 0, "timeout", arguments.timeout, "above 0")
        broker = parse_broker_url(arguments.broker)
        memory = Memory(arguments.fleet / NOTE_NAME if arguments.fleet else None)
        with _seats(arguments, broker) as seats:
            findings = asyncio.run(examine(seats, memory, arguments.timeout))
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet doctor: {error}\n")
        return EXIT_REFUSED
    made = report(str(broker), findings)
    text = as_json(made) if arguments.json else describe(made, _VERDICTS)
    sys.stdout.write(f"{text}\n")
    return exit_status(made)


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet doctor",
        description="Try whether an MQTT broker does what a fleet needs. Exit status 0: it does; 1: it works, with a "
        "weakness; 2: it does not.",
    )
    parser.add_argument(
        "--broker", metavar="URL", required=True, help="mqtts://host[:port], or mqtt://[user[:password]@]host[:port]"
    )
    whose = parser.add_mutually_exclusive_group()
    whose.add_argument("--fleet", type=Path, metavar="FOLDER", help="the fleet's folder: try everything")
    whose.add_argument(
        "--identity", type=Path, metavar="DIR", help="a device's identity/: try what that device can, in its place"
    )
    parser.add_argument("--ca-file", type=Path, help="certificates (PEM) that may have signed the broker's")
    parser.add_argument(
        "--timeout", type=float, default=DEFAULT_SECONDS, help="seconds to wait for an answer (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser


@contextmanager
def _seats(arguments: argparse.Namespace, broker: BrokerUrl) -> Iterator[Seats]:
    if arguments.fleet is not None:
        with fleet_seats(broker, arguments.fleet, arguments.ca_file) as seats:
            yield seats
    elif arguments.identity is not None:
        yield device_seats(broker, arguments.identity, arguments.ca_file)
    else:
        yield plain_seats(broker, arguments.ca_file)


if __name__ == "__main__":
    sys.exit(main())
