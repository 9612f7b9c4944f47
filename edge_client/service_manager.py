"""Tells systemd how the device is: the protocol of sd_notify(3), datagrams to the socket that `NOTIFY_SOCKET` names.

Without that variable, as where a device was started by hand, nobody is told anything. What cannot be sent is not
missed: what matters is repeated.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress

READY, STOPPING, ALIVE = "READY=1", "STOPPING=1", "WATCHDOG=1"
LONGEST_SECONDS = 10.0
"""Between two looks at what there is to tell."""
MAX_STATUS = 500


class ServiceManager:
    """Who started this process, by its `environment`."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        ours = environment.get("WATCHDOG_PID") in (None, str(os.getpid()))
        allowed = environment.get("WATCHDOG_USEC", "")
        self.watchdog_seconds = int(allowed) / 1e6 if ours and allowed.isdecimal() else None

    def tell(self, *lines: str) -> None:
        """Send lines as sd_notify(3) has them."""
        if not self._address:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
            out.sendto("\n".join(lines).encode(), self._address)

    async def attend(self, status: Callable[[], str], alive: Callable[[], bool]) -> None:
        """Until cancelled, say what the device does, and that it is alive as long as it is: twice in the time that the
        watchdog waits. A status is one line.
        """
        if not self._address:
            return
        wait = min(LONGEST_SECONDS, (self.watchdog_seconds or LONGEST_SECONDS * 2) / 2)
        said = None
        while True:
            words = status()[:MAX_STATUS]
            if words != said:
                self.tell(f"STATUS={words}")
            if alive():
                self.tell(ALIVE)
            said = words
            await asyncio.sleep(wait)
