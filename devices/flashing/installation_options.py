"""The options that say what a board is to be made into, for all commands that make a whole board."""

from __future__ import annotations

import argparse
import re
import sys
from getpass import getpass
from pathlib import Path

from devices.errors import FlashError
from devices.flashing.board_file import read_board
from devices.flashing.device_folder import DATA, STATE_FOLDER
from devices.flashing.installation import Installation, Wifi
from devices.flashing.systems import SYSTEMS, system_named

PROMPT = "prompt"


def say_progress(line: str) -> None:
    """Print what takes a while, beside what the command prints in the end."""
    sys.stderr.write(f"{line}\n")


def add_system(parser: argparse.ArgumentParser) -> None:
    """Add `--system`."""
    parser.add_argument("--system", required=True, metavar="NAME", help=f"what the board runs: {', '.join(SYSTEMS)}")


def add_installation(parser: argparse.ArgumentParser) -> None:
    """Add the device's folder and the options that describe its board."""
    parser.add_argument("device_folder", type=Path, metavar="DEVICE_FOLDER", help="the device's folder of the fleet's")
    add_system(parser)
    parser.add_argument("--hostname", help="the board's name on its network (default: the folder's name)")
    parser.add_argument("--wifi-ssid", metavar="SSID", help="name of the wireless network (default: none, by cable)")
    parser.add_argument(
        "--wifi-password-file",
        metavar="FILE",
        help=f"file whose first line is the network's password, or {PROMPT} to be asked for it (default: open network)",
    )
    parser.add_argument("--country", metavar="CC", help="whose rules of the air hold, as in DE; needed for Wi-Fi")
    parser.add_argument(
        "--ssh-key",
        action="append",
        default=[],
        type=Path,
        metavar="FILE",
        help="a public key (.pub) that may log in by SSH; may be repeated",
    )
    parser.add_argument("--timezone", metavar="ZONE", help="as in Europe/Berlin (default: UTC)")


def read_installation(arguments: argparse.Namespace) -> Installation:
    """What the options of `add_installation` say, and `board.toml` where they say nothing.

    A folder without examples is said on stderr. Raises `FlashError` and `InvalidValueError`.
    """
    folder: Path = arguments.device_folder
    board = read_board(folder)
    by_name = re.sub(r"[^a-z0-9-]+", "-", folder.resolve().name.lower()).strip("-")
    installation = Installation(
        folder,
        system_named(arguments.system),
        arguments.hostname or board.hostname or by_name,
        _wifi(arguments) or board.wifi,
        tuple(key for path in arguments.ssh_key for key in _lines(path, "ssh key")),
        arguments.timezone or board.timezone or "UTC",
    )
    if all(file.name != DATA for file in installation.files):
        say_progress(f"{folder} has no {DATA}: the device trains once there is one in {STATE_FOLDER}")
    return installation


def _wifi(arguments: argparse.Namespace) -> Wifi | None:
    if arguments.wifi_ssid is None:
        if arguments.wifi_password_file is not None:
            raise FlashError("--wifi-password-file needs --wifi-ssid")
        return None
    if arguments.country is None:
        raise FlashError("--wifi-ssid needs --country: what may be sent on which channel differs by country")
    return Wifi(arguments.wifi_ssid, _password(arguments), arguments.country)


def _password(arguments: argparse.Namespace) -> str | None:
    source: str | None = arguments.wifi_password_file
    if source is None:
        return None
    if source == PROMPT:
        return getpass(f"password of {arguments.wifi_ssid}: ")
    return _lines(Path(source), "wifi password")[0]


def _lines(path: Path, what: str) -> list[str]:
    try:
        lines = [line for line in path.read_text().splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise FlashError(f"{what} file {path} cannot be read: {error}") from error
    if not lines:
        raise FlashError(f"{what} file {path} is empty")
    return lines
