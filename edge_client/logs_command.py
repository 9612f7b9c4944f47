"""`fisherfleet-edge logs`: what the service has logged, as journalctl shows it."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

UNIT = "fisherfleet-edge.service"
EXIT_REFUSED = 2
_SYSTEMD = Path("/run/systemd/system")
"""There where systemd is what runs services: sd_booted(3)."""


def main(argv: Sequence[str], prog: str) -> int:
    """Become journalctl; returns 2 where there is none."""
    arguments = _parser(prog).parse_args(argv)
    journalctl = shutil.which("journalctl")
    if journalctl is not None and _SYSTEMD.is_dir():
        following = ["--follow"] if arguments.follow else []
        os.execv(journalctl, [journalctl, "--unit", arguments.unit, "--lines", str(arguments.lines), *following])
    sys.stderr.write(
        f"{prog}: error: systemd does not run here, so there is no journal of {arguments.unit}: a device writes its "
        "log to its standard error, wherever what starts it puts that\n"
    )
    return EXIT_REFUSED


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Show what the device's service has logged.")
    parser.add_argument("-f", "--follow", action="store_true", help="go on showing what comes")
    parser.add_argument("-n", "--lines", type=int, default=50, help="the last so many lines (default: %(default)s)")
    parser.add_argument("--unit", default=UNIT, help="the service (default: %(default)s)")
    return parser
