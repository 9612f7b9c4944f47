"""A stand-in for stock Raspberry Pi OS trixie as far as its first start goes: Debian trixie for ARM with cloud-init,
and a boot partition `bootfs` at /boot/firmware with cloud-init's files, as pi-gen makes it.

The real one needs a Raspberry Pi to start. The root is made once, in a quarter of an hour, and kept in the cache
folder; FISHERFLEET_ROOTS names a folder that is looked into first.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from devices.flashing.caches import cache_folder
from devices.flashing.card.layout import BOOT_LABEL, CARD, ROOT_LABEL, genimage_configuration
from devices.flashing.card.programs import search_path

ROOTS_VARIABLE = "FISHERFLEET_ROOTS"
PACKAGES = (
    *("adduser", "ca-certificates", "cloud-init", "dbus", "e2fsprogs", "initramfs-tools", "iproute2", "libgomp1"),
    *("linux-image-arm64", "netplan.io", "openssh-server", "openssl", "python3", "sudo", "systemd-sysv"),
    *("systemd-timesyncd", "udev", "zstd"),
)
KERNEL, INITRD = "kernel8.img", "initramfs8"
BOOT_FILES = {
    "cmdline.txt": "root=LABEL=rootfs rootfstype=ext4 rootwait\n",
    "config.txt": f"arm_64bit=1\nkernel={KERNEL}\ninitramfs {INITRD} followkernel\n",
    "issue.txt": "Raspberry Pi reference 2025-11-24\nA stand-in\n",
    "meta-data": "dsmode: local\ninstance_id: rpios-image\n",
    "user-data": "#cloud-config\n\n#hostname: raspberrypi\n",
    "network-config": "#network:\n#  version: 2\n",
}
_SLOW = ("/usr/sbin/update-initramfs", "/usr/bin/py3compile")
"""Packages run these again and again, under an emulated processor."""
_HOOKS = (
    *(f'--essential-hook=chroot "$1" dpkg-divert --local --rename --add {program}' for program in _SLOW),
    *(f'--essential-hook=ln -s /bin/true "$1{program}"' for program in _SLOW),
    *(
        f'--customize-hook=rm "$1{program}"; chroot "$1" dpkg-divert --local --rename --remove {program}'
        for program in _SLOW
    ),
    '--customize-hook=chroot "$1" update-initramfs -c -k all',
    '--customize-hook=chroot "$1" systemctl enable systemd-networkd',
)
_SETTINGS = {
    "etc/fstab": (
        "LABEL=rootfs / ext4 defaults 0 1\nLABEL=bootfs /boot/firmware vfat defaults,x-systemd.device-timeout=900 0 2\n"
    ),
    "etc/hostname": "raspberrypi\n",
    "etc/machine-id": "",
    "etc/cloud/cloud.cfg.d/99_raspberry-pi.cfg": (
        "datasource_list: [NoCloud, None]\ndatasource: {NoCloud: {fs_label: bootfs}}\n"
    ),
}
_UNPACK = """\
cd "$1"
mkdir -p root out boot
tar --extract --numeric-owner --directory root --exclude=./dev --file "$2"
cp root/boot/vmlinuz-* boot/kernel8.img
cp root/boot/initrd.img-* boot/initramfs8
"""
_DIVIDE = """\
cd "$1"
mkdir -p root/dev root/boot/firmware
rm -f root/etc/ssh/ssh_host_*
cp -r settings/. root
cp -r boot/. root/boot/firmware
genimage --config card.cfg --rootpath root --tmppath parts --inputpath parts --outputpath out
"""


class StockCard:
    """A card of the stand-in below `folder`; its boot partition is the folder `boot` until it is put together."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._root = folder, _root()
        self.boot = folder / "boot"
        self._run(_UNPACK, self._root)
        for name, text in BOOT_FILES.items():
            (self.boot / name).write_text(text)
        for name, text in _SETTINGS.items():
            path = folder / "settings" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def put_together(self) -> Path:
        """The card's image, with what the boot partition's folder has now."""
        text = genimage_configuration(self._root.stat().st_size)
        text = text.replace(BOOT_LABEL, "bootfs").replace(ROOT_LABEL, "rootfs")
        (self._folder / "card.cfg").write_text(text)
        self._run(_DIVIDE)
        return self._folder / "out" / CARD

    def _run(self, script: str, *words: Path) -> None:
        command = ["fakeroot", "-i", self._folder / "owners", "-s", self._folder / "owners", "sh", "-e", "-c", script]
        (self._folder / "owners").touch()
        done = subprocess.run(
            [*command, "sh", self._folder, *words],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"PATH": search_path()},
        )
        assert done.returncode == 0, done.stdout + done.stderr


def _root() -> Path:
    command = ["mmdebstrap", "--arch=arm64", "--variant=minbase", "--format=tar", f"--include={','.join(PACKAGES)}"]
    command += [*_HOOKS, "trixie", "-", "deb http://deb.debian.org/debian trixie main"]
    name = f"stock-trixie-{hashlib.sha256(repr(command).encode()).hexdigest()[:16]}.tar"
    folder = cache_folder() / "roots"
    for place in (os.environ.get(ROOTS_VARIABLE), folder):
        if place and (Path(place) / name).exists():
            return Path(place) / name
    folder.mkdir(parents=True, exist_ok=True)
    sys.stderr.write(f"making a stand-in for stock Raspberry Pi OS (once, about fifteen minutes; kept in {folder})\n")
    made = folder / f"{name}.{os.getpid()}"
    with made.open("wb") as tar:
        subprocess.run(command, stdout=tar, check=True)
    made.rename(folder / name)
    return folder / name
