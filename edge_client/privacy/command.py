"""`fisherfleet-edge privacy status`: what private runs have spent of the owner's cap. `reset`: charges are lost.

Both read the ledger in the device's state folder and nothing else. `status` may be asked while the device runs.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence

from edge_client.config import load_config
from edge_client.config_option import add_config_option
from edge_client.durable_files import only_user_of
from edge_client.privacy.ledger import read_ledger
from edge_client.privacy.ledger_reset import reset_ledger
from edge_client.privacy.status import as_json, as_table, status_of
from wire_protocol.errors import FisherfleetError

EXIT_REFUSED = 2


def main(argv: Sequence[str], prog: str) -> int:
    """Print what was asked for; returns 0, or 2 where the ledger is refused."""
    arguments = _parser(prog).parse_args(argv)
    try:
        sys.stdout.write(_reset(arguments) if arguments.command == "reset" else _status(arguments))
    except FisherfleetError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return EXIT_REFUSED
    return 0


def _status(arguments: argparse.Namespace) -> str:
    config = load_config(arguments.config)
    status = status_of(read_ledger(config.state), config.privacy)
    return json.dumps(as_json(status), indent=2) + "\n" if arguments.json else as_table(status)


def _reset(arguments: argparse.Namespace) -> str:
    config = load_config(arguments.config)
    with only_user_of(config.state):
        done = reset_ledger(config.state, time.time())
    kept = f"{done.kept} of {done.known} charges are still charged"
    return f"{kept}\n" if done.refused is None else f"{kept}; the ledger as it was is {done.refused}\n"


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="What private runs have spent on this device.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="status | reset")
    status = commands.add_parser("status", help="print what is spent and what is left")
    status.add_argument("--json", action="store_true", help="print figures as JSON")
    reset = commands.add_parser(
        "reset",
        help="go on after the ledger was refused",
        description="Go on with what is readable of a ledger that was lost, damaged or rolled back. What is not "
        "readable counts as never spent: the device may then reveal more than its cap allows. To allow more on "
        "purpose, raise epsilon in device.toml instead.",
    )
    reset.add_argument("--accept-lost-charges", action="store_true", required=True, help="say that you know that")
    for command in (status, reset):
        add_config_option(command)
    return parser
