"""`fisherfleet-edge doctor`: look for what keeps this device from training, and say in plain words what to change.

Exit status: 0 where nothing does; 1 where it trains, with a weakness; 2 where it does not, or for a mistake. It changes
nothing, disturbs no device that runs, and goes on where half of it is broken.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from edge_client.config_option import add_config_option
from edge_client.doctor.examine import examine
from edge_client.findings import Verdicts, as_json, describe, exit_status, report

_VERDICTS = Verdicts("can train", "can train", "cannot train as it is")


def main(argv: Sequence[str], prog: str) -> int:
    """Examine the device; returns the exit status."""
    arguments = _parser(prog).parse_args(argv)
    logging.basicConfig(handlers=[logging.NullHandler()])
    made = report(str(arguments.config), examine(arguments.config, arguments.timeout))
    sys.stdout.write((as_json(made) if arguments.json else describe(made, _VERDICTS)) + "\n")
    return exit_status(made)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Look for what keeps this device from training. Run it as the user of the service or as root. Exit "
        "status 0: nothing does; 1: there is a weakness; 2: something does.",
    )
    add_config_option(parser)
    parser.add_argument(
        "--timeout", type=float, default=5.0, help="seconds to wait for broker and server (default: %(default)g)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
