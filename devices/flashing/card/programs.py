"""The programs that make cards: what is missing is said at once, with where it comes from."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from devices.errors import FlashError

BY_PACKAGE = {
    "mmdebstrap": "mmdebstrap",
    "mmtarfilter": "mmdebstrap",
    "dpkg-deb": "dpkg",
    "fakeroot": "fakeroot",
    "genimage": "genimage",
    "mke2fs": "e2fsprogs",
    "mkdosfs": "dosfstools",
    "mcopy": "mtools",
}
_ADMINISTRATION = ("/usr/sbin", "/sbin")
_EMULATOR = Path("/proc/sys/fs/binfmt_misc/qemu-aarch64")
_SAID = 3


def search_path(environment: Mapping[str, str] = os.environ) -> str:
    """Where programs are looked for: an ordinary user's path lacks those that make file systems."""
    return os.pathsep.join((environment.get("PATH", os.defpath), *_ADMINISTRATION))


def require_programs(names: Sequence[str], *, emulator: bool = False) -> None:
    """Raise `FlashError` with what to install where a program, or the kernel's way to run ARM's, is not there."""
    path = search_path()
    missing = {BY_PACKAGE[name] for name in names if shutil.which(name, path=path) is None}
    if emulator and os.uname().machine != "aarch64" and not _EMULATOR.exists():
        missing.add("qemu-user-static")
    if missing:
        raise FlashError(f"a card cannot be made here yet: sudo apt install {' '.join(sorted(missing))}")


def run_program(
    command: Sequence[str], what: str, source: IO[bytes] | None = None, output: IO[bytes] | None = None
) -> None:
    """Run a program to its end; `what` is being made. Raises `FlashError` with what the program said last."""
    done = subprocess.run(
        command,
        env=os.environ | {"PATH": search_path()},
        stdin=source or subprocess.DEVNULL,
        stdout=output or subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
    )
    if done.returncode:
        lines = (done.stderr or b"").decode(errors="replace").strip().splitlines()
        said = "; ".join(line.strip() for line in lines[-_SAID:])
        raise FlashError(f"{what}: {command[0]} failed: {said or f'exit status {done.returncode}'}")
