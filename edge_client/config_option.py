"""Where a device's configuration is, as every command of a device asks for it."""

from __future__ import annotations

import argparse
from pathlib import Path

from edge_client.updates.launch import DEFAULT_FOLDER

INSTALLED = DEFAULT_FOLDER / "device.toml"
"""Where the packages and images of a device have it."""
ENROLMENT_FILE = "enrol.toml"
"""Beside it on a device that enrols at its first start: see `enrolment_file`."""


def add_config_option(parser: argparse.ArgumentParser) -> None:
    """Add `--config`."""
    parser.add_argument(
        "--config", type=Path, metavar="FILE", default=INSTALLED, help="the device's TOML file (default: %(default)s)"
    )
