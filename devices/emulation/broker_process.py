"""The broker's process: `python -m devices.emulation.broker_process PARENT_PID PROGRAM ARGUMENTS...`.

It asks Linux to be killed when its parent dies, then becomes the broker: `mosquitto PATH ...` by exec, which keeps that
wish (prctl(2), PR_SET_PDEATHSIG), or `amqtt HOST PORT` by running amqtt's. On other systems the wish is left out.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from importlib import import_module

_PR_SET_PDEATHSIG = 1


def main(arguments: list[str]) -> None:
    """Become the broker that the command line names."""
    parent, program, *rest = arguments
    _die_with(int(parent))
    if program == "mosquitto":
        os.execv(rest[0], rest)
    host, port = rest
    asyncio.run(_serve_amqtt(f"{host}:{port}"))


def _die_with(parent: int) -> None:
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the wish was made
        os._exit(1)


async def _serve_amqtt(address: str) -> None:
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    configuration = {
        "listeners": {"default": {"type": "tcp", "bind": address}},
        "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
    }
    broker = import_module("amqtt.broker").Broker(configuration)  # optional: only this program needs it
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1:])
