"""An MQTT broker for an emulated fleet: mosquitto where it is installed, else amqtt; on a free loopback port.

Invariants: the broker runs in its own session, so that Ctrl-C in the terminal reaches us first; it is gone and its port
free when the context ends, however it ends; on Linux it also dies with the thread that runs the event loop, so even a
killed process leaves no broker behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from devices.emulation.child_process import Process, log_tail, start_child, stop_child
from devices.errors import BrokerError
from wire_protocol.broker_url import BrokerUrl

Program = Literal["mosquitto", "amqtt"]

LOG_NAME = "broker.log"
CONFIGURATION_NAME = "mosquitto.conf"
HOST = "127.0.0.1"

_PROCESS_MODULE = "devices.emulation.broker_process"
_ADMINISTRATION_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
_ATTEMPTS = 4
_START_SECONDS = 30.0
_PROBE_SECONDS = 2.0
_POLL_SECONDS = 0.02

# MQTT 3.1.1 (OASIS standard, 2014), sections 3.1, 3.2 and 3.14: client id "probe", clean session, keep-alive 10 s.
_CONNECT = bytes.fromhex("10 11 0004") + b"MQTT" + bytes.fromhex("04 02 000a 0005") + b"probe"
_CONNECTION_ACCEPTED = bytes.fromhex("20 02 00 00")
_DISCONNECT = bytes.fromhex("e0 00")


@asynccontextmanager
async def embedded_broker(folder: Path, program: Program | None = None) -> AsyncIterator[BrokerUrl]:
    """Run a broker that takes anonymous clients of this machine only; yields its address.

    `folder` is made if need be; it gets the broker's log, `broker.log`, and while mosquitto runs its configuration.
    `program` is what is installed, mosquitto first, unless given. Raises `BrokerError` when there is no broker or it
    does not start.
    """
    chosen = program or _installed_program()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / LOG_NAME).write_bytes(b"")
    process, port = await _start(chosen, folder)
    try:
        yield BrokerUrl(HOST, port)
    finally:
        await stop_child(process)
        (folder / CONFIGURATION_NAME).unlink(missing_ok=True)


def find_mosquitto() -> str | None:
    """Path of the mosquitto program, which Debian installs outside the PATH of ordinary users; None where absent."""
    folders = os.pathsep.join((os.environ.get("PATH", os.defpath), *_ADMINISTRATION_FOLDERS))
    return shutil.which("mosquitto", path=folders)


def _installed_program() -> Program:
    if find_mosquitto():
        return "mosquitto"
    if find_spec("amqtt"):
        return "amqtt"
    raise BrokerError("no MQTT broker found, expected mosquitto (apt install mosquitto) or amqtt (pip install amqtt)")


async def _start(program: Program, folder: Path) -> tuple[Process, int]:
    """Start the broker and wait for it; another program may take the free port first, so try a few times."""
    log = folder / LOG_NAME
    for _ in range(_ATTEMPTS):
        port = _free_port()
        process = await start_child(_command(program, port, folder), log)
        try:
            async with asyncio.timeout(_START_SECONDS):
                ready = await _ready(process, port)
        except BaseException as error:
            await stop_child(process)
            if isinstance(error, TimeoutError):
                raise BrokerError(f"{program} did not answer within {_START_SECONDS:g} s: {log_tail(log)}") from error
            raise
        if ready:
            return process, port
    raise BrokerError(f"{program} ended {_ATTEMPTS} times before it answered: {log_tail(log)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _command(program: Program, port: int, folder: Path) -> list[str]:
    """Command line of `broker_process`, which ties itself to this process and becomes the broker."""
    entry = [sys.executable, "-m", _PROCESS_MODULE, str(os.getpid()), program]
    if program == "amqtt":
        return [*entry, HOST, str(port)]
    found = find_mosquitto()
    if found is None:
        raise BrokerError("mosquitto is not installed (apt install mosquitto)")
    configuration = folder / CONFIGURATION_NAME
    configuration.write_text(_mosquitto_configuration(port), encoding="utf-8")
    return [*entry, found, "-c", str(configuration)]


def _mosquitto_configuration(port: int) -> str:
    lines = [
        f"listener {port} {HOST}",
        "allow_anonymous true",
        "persistence false",
        "max_queued_messages 100000",
        "set_tcp_nodelay true",
        "log_dest stdout",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
    ]
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        lines.append("user root")  # changing the user would undo the tie to this process
    return "".join(f"{line}\n" for line in lines)


async def _ready(process: Process, port: int) -> bool:
    """Wait until the broker takes MQTT connections (True) or has ended (False)."""
    while process.returncode is None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PROBE_SECONDS):
                if await _answers(port):
                    return process.returncode is None
        await asyncio.sleep(_POLL_SECONDS)
    return False


async def _answers(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection(HOST, port)
    except OSError:
        return False
    try:
        writer.write(_CONNECT)
        answer = await reader.readexactly(len(_CONNECTION_ACCEPTED))
        writer.write(_DISCONNECT)
        await writer.drain()
    except (OSError, asyncio.IncompleteReadError):
        return False
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
    return answer == _CONNECTION_ACCEPTED
