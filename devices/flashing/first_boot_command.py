"""`fisherfleet devices flash first-boot`: a card with stock Raspberry Pi OS becomes a device at its first start."""

from __future__ import annotations

import argparse
import re
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.errors import FlashError
from devices.flashing.boot_partition import require_boot_partition, restore, write_first_boot, write_folder
from devices.flashing.caches import cache_folder
from devices.flashing.cloud_init import NETWORK_CONFIG, USER_DATA
from devices.flashing.debian_package import build_package, package_name
from devices.flashing.first_boot_files import OURS, FirstBoot
from devices.flashing.firstrun import FIRSTRUN
from devices.flashing.installation_options import add_installation, read_installation, say_progress
from devices.flashing.systems import System
from wire_protocol.errors import require

_USER = re.compile(r"[a-z_][a-z0-9_-]{0,30}")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_installation(parser)
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--boot", type=Path, metavar="DIR", help="where the card's boot partition is mounted")
    where.add_argument("--out", type=Path, metavar="DIR", help="a new folder for the files, for rpi-imager --cli")
    parser.add_argument("--user", default="pi", metavar="NAME", help="who may log in by SSH key (default: %(default)s)")
    parser.add_argument(
        "--package",
        type=Path,
        metavar="FILE",
        help="the client's .deb, as fisherfleet devices flash package makes it (default: made now)",
    )
    parser.add_argument("--undo", action="store_true", help="take away what was written, and put back what was there")


def run(arguments: argparse.Namespace) -> str:
    """Write the files; returns what to do next."""
    require(_USER.fullmatch(arguments.user) is not None, "user", arguments.user, "lower-case letters, digits, - and _")
    if arguments.undo:
        return _undo(arguments.boot)
    installation = read_installation(arguments)
    boot = FirstBoot(installation, arguments.user, f"{installation.hostname}-{secrets.token_hex(4)}")
    if arguments.boot is not None:
        require_boot_partition(arguments.boot, installation.system)
    with TemporaryDirectory() as folder:
        package = _package(arguments.package, installation.system, Path(folder))
        if arguments.boot is not None:
            write_first_boot(arguments.boot, boot, package)
            return _written(arguments.boot, boot)
        write_folder(arguments.out, boot, package)
        return _made(arguments.out, boot)


def _package(given: Path | None, system: System, folder: Path) -> Path:
    """The client's .deb that was given, or one made in `folder`."""
    if given is None:
        return build_package(system, folder, cache_folder(), say_progress)
    expected = package_name(system)
    if given.name != expected or not given.is_file():
        raise FlashError(f"package must be {expected}, as fisherfleet devices flash package makes it, got {given}")
    return given


def _undo(boot: Path | None) -> str:
    if boot is None:
        raise FlashError("--undo needs --boot")
    return f"{boot} is as it was." if restore(boot) else f"{boot} has nothing of ours."


def _written(folder: Path, boot: FirstBoot) -> str:
    installation = boot.installation
    login = f"ssh {boot.user}@{installation.hostname}.local" if installation.ssh_keys else "no SSH key: nobody logs in"
    return (
        f"{folder} is ready. Unmount it and start the board with the card: it takes a few minutes until the device is\n"
        f"in the fleet ({login}). Should it not come, put the card back: {OURS}/first-boot.log says why.\n"
        f"The card holds the device's secrets until then."
    )


def _made(out: Path, boot: FirstBoot) -> str:
    if boot.by_cloud_init:
        files = f"--cloudinit-userdata {out / USER_DATA}"
        if boot.installation.wifi is not None:
            files += f" --cloudinit-networkconfig {out / NETWORK_CONFIG}"
    else:
        files = f"--first-run-script {out / FIRSTRUN}"
    return (
        f"{out} has the files. Write the card, then copy the folder onto its boot partition:\n"
        f"  rpi-imager --cli {files} IMAGE DEVICE\n"
        f"  cp -r {out / OURS} BOOT_PARTITION/\n"
        f"Both hold the device's secrets."
    )
