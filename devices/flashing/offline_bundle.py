"""`fisherfleet devices flash bundle`: a device in one file, for any machine with systemd and the right Python.

    fisherfleet-edge-NAME/
        install.sh, uninstall.sh    POSIX shell
        system                      what install.sh expects of the machine
        client/                     what `client_tree.py` says
        device/                     the device's own folder, only for its owner's eyes

It needs no network where it is unpacked. As it holds the device's keys only its owner can read it.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.errors import FlashError
from devices.flashing.caches import cache_folder
from devices.flashing.client_tree import ON_DEVICE, source_time, write_client_tree
from devices.flashing.device_folder import PRIVATE_FILE, PRIVATE_FOLDER, device_files
from devices.flashing.installation_options import add_system, say_progress
from devices.flashing.systems import System, system_named

SCRIPTS = ("install.sh", "uninstall.sh")
_PROGRAM, _FOLDER, _FILE = 0o755, 0o755, 0o644


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("device_folder", type=Path, metavar="DEVICE_FOLDER", help="the device's folder of the fleet's")
    add_system(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the file to make, as in kitchen.tar")


def run(arguments: argparse.Namespace) -> str:
    """Make the bundle; returns what to do with it."""
    out: Path = arguments.out
    name = build_bundle(arguments.device_folder, system_named(arguments.system), out, cache_folder(), say_progress)
    return (
        f"{out}: it holds the device's keys. Copy it to the device and run there:\n"
        f"tar -xf {out.name} && sudo sh {name}/install.sh"
    )


def build_bundle(device: Path, system: System, out: Path, cache: Path, say: Callable[[str], None]) -> str:
    """Write the device's bundle for `system` to the file `out`; returns the name of the folder in it.

    `say` gets a line before something is fetched. Raises `FlashError`.
    """
    files = device_files(device)
    name = f"fisherfleet-edge-{device.resolve().name}"
    with TemporaryDirectory() as folder:
        root = Path(folder) / name
        root.mkdir()
        write_client_tree(system, root / "client", cache, say)
        for script in SCRIPTS:
            shutil.copyfile(ON_DEVICE / "bundle" / script, root / script)
        (root / "system").write_text(_system_lines(system))
        (root / "device").mkdir(mode=PRIVATE_FOLDER)
        for one in files:
            target = root / "device" / one.name
            target.parent.mkdir(mode=PRIVATE_FOLDER, exist_ok=True)
            target.symlink_to(one.source.resolve())
        _pack(root, out)
    return name


def _system_lines(system: System) -> str:
    said = {"machine": system.machine, "python": system.python, "title": system.title}
    return "".join(f"{key}={shlex.quote(value)}\n" for key, value in said.items())


def _pack(root: Path, out: Path) -> None:
    fresh = out.with_name(f".{out.name}.new")
    try:
        fresh.unlink(missing_ok=True)
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE_FILE)
        with os.fdopen(descriptor, "wb") as file, tarfile.open(fileobj=file, mode="w", dereference=True) as tar:
            for path in (root, *sorted(root.rglob("*"))):
                tar.add(path, path.relative_to(root.parent), recursive=False, filter=_as_system_file)
        fresh.replace(out)
    except OSError as error:
        fresh.unlink(missing_ok=True)
        raise FlashError(f"{out} cannot be written: {error.strerror}") from error


def _as_system_file(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Root's, of one time, and with modes that say what it is."""
    private = member.name.split("/")[1:2] == ["device"]
    program = member.name.endswith((*SCRIPTS, "usr/bin/fisherfleet-edge"))
    folder, file = (PRIVATE_FOLDER, PRIVATE_FILE) if private else (_FOLDER, _PROGRAM if program else _FILE)
    member.mode = folder if member.isdir() else file
    member.uid = member.gid = 0
    member.uname = member.gname = "root"
    member.mtime = source_time()
    return member
