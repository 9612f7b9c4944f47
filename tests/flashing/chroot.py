"""A Debian root in a folder: what is in it, and programs of it run as a device would run them."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

MADE_BY_TOOLS = re.compile(
    r"opt|etc/\.pwd\.lock|etc/(passwd|group|shadow|gshadow)-|run(/.*)?|tmp(/.*)?|usr/lib/python3.*/__pycache__(/.*)?"
    r"|var/lib/(dpkg|systemd)/.*|var/log/dpkg\.log|etc/systemd/system(/[a-z-]+\.target\.wants)?"
)
"""What dpkg, Python and systemd's tools leave wherever they run: backups, locks, caches, logs and empty folders."""


@dataclass(frozen=True)
class Chroot:
    """A root; it shares the network of this machine. Nothing is mounted in it."""

    path: Path

    def run(self, *command: object, status: int = 0) -> str:
        """What a program says; fails where its exit status is another."""
        words = ["chroot", str(self.path), *map(str, command)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        assert done.returncode == status, f"{words}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def files(self) -> set[str]:
        """Paths of everything in it that no tool leaves behind."""
        found = (str(path.relative_to(self.path)) for path in self.path.rglob("*"))
        return {path for path in found if MADE_BY_TOOLS.fullmatch(path) is None}

    def users(self) -> set[str]:
        """Names of its users and groups."""
        lines = [line for name in ("passwd", "group") for line in (self.path / "etc" / name).read_text().splitlines()]
        return {line.partition(":")[0] for line in lines}

    def service(self, unit: str) -> list[str]:
        """The command with which systemd would start a unit: its user, folder and words."""
        lines = (self.path / unit).read_text().splitlines()
        said = dict(line.split("=", 1) for line in lines if "=" in line)
        folder = said["WorkingDirectory"].replace("%S", "/var/lib")
        start = f"cd {folder} && umask {said['UMask']} && exec {said['ExecStart']}"
        return ["chroot", f"--userspec={said['User']}:{said['Group']}", str(self.path), "/bin/sh", "-c", start]
