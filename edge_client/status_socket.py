"""Where a running device tells its status: a socket in Linux's abstract name space, so that no disk is written.

It is named after the folder of the device's state. Root and the device's own user may ask (unix(7), SO_PEERCRED), and
only an answer of root or of that folder's owner is believed.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from edge_client.device_status import Status

logger = logging.getLogger(__name__)

LINUX = sys.platform == "linux"
ANSWER_SECONDS = 5.0
MOST_BYTES = 64 * 1024
_CREDENTIALS = struct.Struct("3i")
"""Process, user, group."""


@asynccontextmanager
async def answering(state: Path, status: Callable[[], Status]) -> AsyncIterator[None]:
    """Tell who asks, while the body runs; where that cannot be, a log line says so."""
    if not LINUX:
        yield
        return
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as listener:
        try:
            listener.bind(_address(state))
            listener.listen()
            listener.setblocking(False)
            loop.add_reader(listener, _tell, listener, status)
        except OSError as error:
            logger.warning("nobody can ask for this device's status: %s", error)
        try:
            yield
        finally:
            loop.remove_reader(listener)


def _tell(listener: socket.socket, status: Callable[[], Status]) -> None:
    """An answer is smaller than what the kernel holds for a socket, so this waits for nobody."""
    with suppress(OSError):
        link, _address_of_nobody = listener.accept()
        with link:
            link.setblocking(False)
            if _peer(link) in (0, os.getuid()):
                link.send(msgspec.json.encode(status()))


def ask(state: Path) -> Status | None:
    """The status of the device whose state this is, None where none answers that may be believed."""
    if not LINUX:
        return None
    try:
        with socket.socket(socket.AF_UNIX) as link:
            link.settimeout(ANSWER_SECONDS)
            link.connect(_address(state))
            if _peer(link) not in (0, state.stat().st_uid):
                return None
            return msgspec.json.decode(_read(link), type=Status)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError):
        return None


def _read(link: socket.socket) -> bytes:
    content = b""
    while (piece := link.recv(MOST_BYTES)) and len(content) <= MOST_BYTES:
        content += piece
    return content


def _peer(link: socket.socket) -> int:
    _process, user, _group = _CREDENTIALS.unpack(
        link.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    )
    return int(user)


def _address(state: Path) -> str:
    return f"\0fisherfleet-edge/{sha256(os.fsencode(state.resolve())).hexdigest()}"
