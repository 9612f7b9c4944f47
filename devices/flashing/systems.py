"""The operating systems that devices run, as data: what the client's packages are chosen by, and what installs them.

A wheel's platform tag names the oldest C library that it runs with (PEP 600), so a system takes all tags up to its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from devices.errors import FlashError

Machine = Literal["aarch64", "x86_64"]

_OLDEST_GLIBC = 17
_DEBIAN_ARCHITECTURES: dict[Machine, str] = {"aarch64": "arm64", "x86_64": "amd64"}


@dataclass(frozen=True)
class System:
    """An operating system's release on one kind of processor.

    `release` sorts by age within a distribution, as dpkg sorts; `python` is the version that `/usr/bin/python3` has, as
    in "3.13"; `glibc` is the minor version of its C library, 36 being glibc 2.36. The client may train on as much
    processor as `most_threads` threads take.
    """

    name: str
    title: str
    release: str
    python: str
    glibc: int
    machine: Machine = "aarch64"
    most_threads: int = 3

    @property
    def debian_architecture(self) -> str:
        """What dpkg calls the processor: arm64 or amd64."""
        return _DEBIAN_ARCHITECTURES[self.machine]

    @property
    def platforms(self) -> tuple[str, ...]:
        """Platform tags of wheels that run there, the newest first (PEP 600, and the older name for glibc 2.17)."""
        newest_first = range(self.glibc, _OLDEST_GLIBC - 1, -1)
        return (*(f"manylinux_2_{minor}_{self.machine}" for minor in newest_first), f"manylinux2014_{self.machine}")

    @property
    def next_python(self) -> str:
        """The first version of Python that the system's packages do not run on."""
        major, minor = self.python.split(".")
        return f"{major}.{int(minor) + 1}"


SYSTEMS = {
    system.name: system
    for system in (
        System("bookworm", "Raspberry Pi OS or Debian 12 (bookworm), 64-bit ARM", "deb12", "3.11", 36),
        System("trixie", "Raspberry Pi OS or Debian 13 (trixie), 64-bit ARM", "deb13", "3.13", 41),
        System("jetpack6", "JetPack 6 (Ubuntu 22.04) on a Jetson Orin", "ubuntu22.04", "3.10", 35, most_threads=8),
        System("bookworm-x86-64", "Debian 12 (bookworm) on a PC", "deb12", "3.11", 36, "x86_64"),
        System("trixie-x86-64", "Debian 13 (trixie) on a PC", "deb13", "3.13", 41, "x86_64"),
    )
}
TOO_OLD = {
    "jetpack5": "its Python is 3.8; a Jetson Orin can be flashed with JetPack 6, an older Jetson cannot",
    "jetpack4": "its Python is 3.6, and the boards that need it cannot run JetPack 6",
    "bullseye": "its Python is 3.9; flash the board with bookworm or trixie",
    "buster": "its Python is 3.7; flash the board with bookworm or trixie",
}
"""Systems that people ask for, and why they cannot be had: the client needs Python 3.10."""


def system_named(name: str) -> System:
    """The system of this name; raises `FlashError` that lists those there are."""
    if name in TOO_OLD:
        raise FlashError(f"system {name} is too old: {TOO_OLD[name]}")
    if name not in SYSTEMS:
        raise FlashError(f"system must be one of {', '.join(SYSTEMS)}, got {name!r}")
    return SYSTEMS[name]
