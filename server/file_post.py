"""Sends files over MQTT to devices that cannot fetch them by HTTP, each sealed for its device, in chunks.

Heard are only devices that are enrolled, by their signature. A few senders share one `Courier` and wait until the
broker has a piece before they read another, and one file at a time is sealed: so memory does not grow with the number
of devices that ask. Nothing rests on delivery: a device asks again for what it misses.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from server.cancellation import end_tasks
from server.courier import Courier, Piece
from server.errors import StorageError
from server.operator_keys import Operator
from server.registry import Registry
from server.sealed_files import SealedFile, SealedFiles
from server.shelf import Shelf
from server.traffic import Traffic
from wire_protocol import messages, topics
from wire_protocol.chunking import DEFAULT_CHUNK_BYTES
from wire_protocol.envelope import SEALED_OVERHEAD, Context, seal, verify
from wire_protocol.identity import PublicKeys
from wire_protocol.messages import MAX_FILE_BYTES, Want
from wire_protocol.topics import FilePart

logger = logging.getLogger(__name__)

_SENDERS = 4
_SUBJECT_DIGITS = 32

Publish = Callable[[str, bytes], Awaitable[bool]]


@dataclass(frozen=True)
class Office:
    """Who sends: the operator for these devices; what went is counted in `traffic`."""

    operator: Operator
    registry: Registry
    traffic: Traffic
    publish: Publish


class FilePost:
    """Files of one server; `run` sends what `on_want` was asked for."""

    def __init__(self, office: Office, shelf: Shelf, sealed: SealedFiles, chunk_bytes: int, courier: Courier) -> None:
        self._office = office
        self._shelf = shelf
        self._sealed = sealed
        self._chunk_bytes = min(chunk_bytes, DEFAULT_CHUNK_BYTES)
        self._courier = courier
        self._work = asyncio.Event()
        self._sealing = asyncio.Lock()

    def on_want(self, device: str, payload: bytes) -> None:
        """Take a signed request; raises `ProtocolError` when it is not legal or not the device's."""
        office = self._office
        context = Context("want", office.operator.fleet, device=device)
        want = messages.decode(verify(payload, context, office.registry.keys(device)), Want)
        if self._courier.want(device, want):
            self._work.set()

    async def run(self) -> None:
        """Send until cancelled."""
        senders = [asyncio.create_task(self._send_all(), name="file sender") for _ in range(_SENDERS)]
        try:
            await asyncio.gather(*senders)
        finally:
            await end_tasks(senders)

    async def _send_all(self) -> None:
        while True:
            piece = self._courier.take()
            if piece is None:
                self._work.clear()
                await self._work.wait()
                continue
            try:
                await self._send(piece)
            except StorageError as error:
                self._courier.drop(piece.device, piece.want)
                logger.error("%s could not be sent to device %s: %s", piece.want.path, piece.device, error)
            except Exception:
                self._courier.drop(piece.device, piece.want)
                logger.exception("%s could not be sent to device %s; going on", piece.want.path, piece.device)

    async def _send(self, piece: Piece) -> None:
        async with self._sealing:
            file = await self._file_of(piece)
        if file is None:
            self._courier.drop(piece.device, piece.want)
            return
        index = piece.chunk if piece.want.sha256 == file.manifest.sha256 else None
        if index is None:
            self._courier.drop(piece.device, piece.want)
            content = messages.encode(file.manifest)
        elif index < file.manifest.chunk_count:
            content = await asyncio.to_thread(self._sealed.chunk, file, index)
        else:
            return
        topic = topics.file(FilePart(piece.device, file.manifest.sha256.hex(), index))
        if await self._office.publish(topic, content):
            self._office.traffic.sent(len(content))

    async def _file_of(self, piece: Piece) -> SealedFile | None:
        """The sealed payload of a file for a device, made if need be; None when it cannot have it, or not now."""
        path, device = piece.want.path, piece.device
        keys = self._office.registry.keys(device)
        if not keys:
            return None
        subject = self._subject(path, keys[0])
        known = self._sealed.find(device, subject)
        source = self._shelf.path_of(path)
        if known is not None or source is None or not self._may_have(device, source):
            return known
        payload = await asyncio.to_thread(self._seal, source, piece, keys[0])
        logger.info("%s goes to device %s by MQTT, %d bytes", path, device, len(payload))
        return await asyncio.to_thread(self._sealed.add, device, subject, payload, self._chunk_bytes)

    def _may_have(self, device: str, source: Path) -> bool:
        try:
            size = source.stat().st_size
        except OSError as error:
            raise StorageError(f"{source} cannot be read ({error.strerror})") from error
        if size > MAX_FILE_BYTES:
            logger.warning("%s has %d bytes: device %s can fetch it by HTTP only", source, size, device)
            return False
        return self._sealed.make_room(device, size + SEALED_OVERHEAD) and self._courier.may_have(device, size)

    def _seal(self, source: Path, piece: Piece, reader: PublicKeys) -> bytes:
        operator = self._office.operator
        context = Context("file", operator.fleet, piece.want.path, device=piece.device)
        try:
            return seal(source.read_bytes(), context, operator.identities, reader)
        except OSError as error:
            raise StorageError(f"{source} cannot be read ({error.strerror})") from error

    def _subject(self, path: str, reader: PublicKeys) -> str:
        """Differs where another path, reader or signer would give another payload."""
        signers = [identity.public.key_id for identity in self._office.operator.identities]
        told = b"\0".join([self._office.operator.fleet.encode(), path.encode(), reader.key_id.hex().encode()])
        return sha256(told + b"".join(signers)).hexdigest()[:_SUBJECT_DIGITS]
