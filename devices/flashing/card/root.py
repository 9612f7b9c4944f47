"""What of Debian is on a card for a Raspberry Pi 3 or 4, and how mmdebstrap makes it. No I/O.

A root file system is made in two steps, each a tar: Debian as boards have it, which takes many minutes and is the same
for long, then the client. `update-initramfs` is diverted while packages are installed, as they would run it again and
again, and runs once when `/etc/fstab` is there, which says what file systems it is to check.
"""

from __future__ import annotations

from pathlib import Path
from shlex import quote

from devices.flashing.systems import System

PACKAGES = (
    "adduser",
    "ca-certificates",
    "cloud-guest-utils",
    "dbus",
    "dosfstools",
    "e2fsprogs",
    "fdisk",
    "firmware-brcm80211",
    "initramfs-tools",
    "iproute2",
    "kmod",
    "libgcc-s1",
    "libstdc++6",
    "linux-image-arm64",
    "openssh-server",
    "openssl",
    "python3",
    "raspi-firmware",
    "systemd-resolved",
    "systemd-sysv",
    "systemd-timesyncd",
    "tzdata",
    "udev",
    "wireless-regdb",
    "wpasupplicant",
    "zstd",
)
COMPONENTS = "main non-free-firmware"
"""The firmware of a Raspberry Pi and of its wireless chips is not free software."""

SERVICES = (
    "fisherfleet-board.service",
    "fisherfleet-first-boot.service",
    "fisherfleet-grow-root.service",
    "systemd-networkd.service",
    "systemd-resolved.service",
    "systemd-timesyncd.service",
)
_LEFT_OUT = ("/usr/share/doc/*", "/usr/share/info/*", "/usr/share/locale/*", "/usr/share/man/*")
_LICENCES = "/usr/share/doc/*/copyright"
_UPDATE = "/usr/sbin/update-initramfs"
_DIVERT = (
    f'chroot "$1" dpkg-divert --quiet --local --rename --divert {_UPDATE}.built --add {_UPDATE}'
    f' && ln -s /bin/true "$1{_UPDATE}"'
)
_UPDATE_ONCE = (
    f'rm "$1{_UPDATE}" && chroot "$1" dpkg-divert --quiet --local --rename --remove {_UPDATE}'
    ' && chroot "$1" update-initramfs -c -k all'
)
_NOT_YET_A_BOARD = (
    'rm -f "$1"/etc/ssh/ssh_host_*',
    'ln -sf ../run/systemd/resolve/stub-resolv.conf "$1/etc/resolv.conf"',
    'echo fisherfleet > "$1/etc/hostname"',
    ': > "$1/etc/machine-id"',
)
"""What makes a board itself comes at its first start: its keys, machine id, resolver and name."""


def sources(release: str, archive: str) -> tuple[str, ...]:
    """Lines of `sources.list` for a release of Debian, its updates and its security from `archive`, an URL."""
    suites = {"debian": (release, f"{release}-updates"), "debian-security": (f"{release}-security",)}
    return tuple(f"deb {archive}/{place} {suite} {COMPONENTS}" for place, found in suites.items() for suite in found)


def debian_command(system: System, archive: str, ours: Path) -> list[str]:
    """What writes a tar with Debian and the files of the tar `ours` to standard output."""
    return [
        "mmdebstrap",
        f"--arch={system.debian_architecture}",
        "--variant=minbase",
        '--aptopt=APT::Install-Recommends "false"',
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT),
        f"--dpkgopt=path-include={_LICENCES}",
        f"--include={','.join(PACKAGES)}",
        f"--essential-hook={_DIVERT}",
        f"--customize-hook=tar-in {quote(str(ours))} /",
        f'--customize-hook=chroot "$1" systemctl --quiet enable {" ".join(SERVICES)}',
        f"--customize-hook={_UPDATE_ONCE}",
        "--format=tar",
        system.name,
        "-",
        *sources(system.name, archive),
    ]


def board_command(system: System, debian: Path, client: Path) -> list[str]:
    """What writes a tar with all of a board to standard output, from the tar `debian` and the .deb `client`."""
    return [
        "mmdebstrap",
        f"--arch={system.debian_architecture}",
        "--variant=custom",
        "--skip=update",
        "--format=tar",
        f"--setup-hook=tar-in {quote(str(debian))} /",
        f"--customize-hook=upload {quote(str(client))} /tmp/client.deb",
        '--customize-hook=chroot "$1" dpkg --install /tmp/client.deb',
        *(f"--customize-hook={line}" for line in _NOT_YET_A_BOARD),
        "",
        "-",
    ]
