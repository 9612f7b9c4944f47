"""A board that does not exist: qemu's generic ARM machine, started from a card as a Raspberry Pi's firmware would.

It reads config.txt and cmdline.txt of the boot partition; the disk and network are virtio's. The host's 127.0.0.1 is
10.0.2.2 there. `cut_power` is SIGKILL: what the board had not written to its card is lost.
"""

from __future__ import annotations

import logging
import re
import signal
import socket
import subprocess
import time
from pathlib import Path

from devices.flashing.card.layout import ALIGN_MIB, MIB

HOST_SEEN_FROM_THE_BOARD = "10.0.2.2"
PATIENCE_SECONDS = 900.0
POLL_SECONDS = 0.2
logger = logging.getLogger(__name__)
_MACHINE = ("-machine", "virt", "-cpu", "cortex-a72", "-smp", "2", "-m", "1024", "-no-reboot", "-display", "none")


class Board:
    """A card and what is started from it; the console of all starts is in `console`."""

    def __init__(self, card: Path, folder: Path, ssh_key: Path | None = None, login: str = "root") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.card = card
        self.console = folder / "console.log"
        self._folder = folder
        self._key, self._login = ssh_key, login
        self._seen = 0
        self._qemu: subprocess.Popen[bytes] | None = None
        self._port = 0

    def start(self) -> None:
        """Switch it on; the console is then read from here."""
        configuration = self.boot_file("config.txt").decode()
        for name, setting in (("kernel", r"^kernel=(\S+)"), ("initrd", r"^initramfs (\S+)")):
            (file,) = re.findall(setting, configuration, re.MULTILINE)
            (self._folder / name).write_bytes(self.boot_file(file))
        line = self.boot_file("cmdline.txt").decode().strip()
        self._seen = len(self.text())
        logger.info("%s starts; its console is %s", self.card.name, self.console)
        self._port = free_port()
        with self.console.open("ab") as console:
            self._qemu = subprocess.Popen(
                [
                    *("qemu-system-aarch64", *_MACHINE, "-serial", "stdio", "-monitor", "none"),
                    *("-kernel", str(self._folder / "kernel"), "-initrd", str(self._folder / "initrd")),
                    *("-append", f"{line} console=ttyAMA0 systemd.journald.forward_to_console=1 net.ifnames=0"),
                    *("-drive", f"file={self.card},format=raw,if=virtio", "-device", "virtio-rng-pci"),
                    *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{self._port}-:22"),
                    *("-device", "virtio-net-pci,netdev=net"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=subprocess.STDOUT,
            )

    def text(self) -> str:
        """The console of all starts."""
        return self.console.read_text(errors="replace") if self.console.exists() else ""

    def since_start(self) -> str:
        """The console of the last start."""
        return self.text()[self._seen :]

    def wait_for(self, pattern: str) -> re.Match[str]:
        """Wait until the console of this start matches; fails with its end where the board stops or takes too long."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = re.search(pattern, self.since_start())
            if found:
                logger.info("%s", found[0])
                return found
            assert self._qemu is not None
            assert self._qemu.poll() is None, f"the board stopped\n{self.text()[-4000:]}"
            assert time.monotonic() < deadline, f"no {pattern!r} in {PATIENCE_SECONDS} s\n{self.text()[-4000:]}"
            time.sleep(POLL_SECONDS)

    def run(self, command: str) -> str:
        """What a command prints there, by SSH."""
        options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "LogLevel=ERROR", "BatchMode=yes")
        words = ["ssh", "-i", str(self._key), "-p", str(self._port), f"{self._login}@127.0.0.1"]
        words += [word for option in options for word in ("-o", option)]
        done = subprocess.run([*words, command], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
        return done.stdout

    def boot_file(self, name: str) -> bytes:
        """A file of the boot partition; the board is off, or has not changed it."""
        command = ["mcopy", "-i", f"{self.card}@@{ALIGN_MIB * MIB}", f"::{name}", "-"]
        return subprocess.run(command, capture_output=True, check=True).stdout

    def boot_files(self) -> str:
        """Names of all files of the boot partition."""
        command = ["mdir", "-/", "-b", "-i", f"{self.card}@@{ALIGN_MIB * MIB}", "::"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def cut_power(self) -> None:
        """Stop it as a power cut does."""
        assert self._qemu is not None
        logger.info("%s loses its power", self.card.name)
        self._qemu.send_signal(signal.SIGKILL)
        self._qemu.wait(30)

    def shut_down(self) -> None:
        """Stop it as `poweroff` does, and wait."""
        assert self._qemu is not None
        self.run(("" if self._login == "root" else "sudo ") + "systemctl --no-block poweroff")
        self._qemu.wait(PATIENCE_SECONDS)

    def stop(self) -> None:
        """End it where it still runs."""
        if self._qemu is not None and self._qemu.poll() is None:
            self.cut_power()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
