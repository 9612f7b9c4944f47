"""Fetches files over MQTT, as sealed payloads in chunks, for a device that cannot reach the server by HTTP.

`fetch` blocks and belongs to an executor's thread; what the link brings is handed over to it through a bounded queue
(what finds no room is lost and asked for again), and its questions go back to the event loop. What came of a file lies
beside it as `<name>.sealed`; it is opened, checked by the file's own SHA-256 and only then given its name.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import random
import time
from collections import deque
from collections.abc import Callable, Coroutine
from hashlib import sha256
from threading import Event, Lock
from typing import Any

from edge_client.card_wear import note
from edge_client.credentials import Credentials
from edge_client.errors import BundleError, LinkError, SpoiltError, UnreachableError
from edge_client.file_transfer import PATIENCE_SECONDS, FileTransfer
from edge_client.http_download import Wanted, finish, part_of
from edge_client.sealed_part import SealedPart
from wire_protocol import topics
from wire_protocol.envelope import SEALED_OVERHEAD
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import MAX_FILE_BYTES, MAX_WANTED, Manifest, Want, decode, encode

logger = logging.getLogger(__name__)

LARGEST_PIECE_BYTES = 256 * 1024
MOST_FAILURES = 3
_STOP_SECONDS = 0.5
_REFUSED_REMEMBERED = 32

Publish = Callable[[str, bytes], Coroutine[Any, Any, None]]
_Piece = tuple[str, bytes] | None
"""A topic and what came on it; None: the link is up again."""


class Courier:
    """The files of one device; made in the event loop, as its `publish` belongs to it."""

    def __init__(self, credentials: Credentials, publish: Publish, clock: Callable[[], float] = time.monotonic) -> None:
        self._credentials = credentials
        self._publish = publish
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._publishing: set[asyncio.Task[None]] = set()
        self._inbox: queue.Queue[_Piece] | None = None
        self._one_at_a_time = Lock()
        self._refused: deque[bytes] = deque(maxlen=_REFUSED_REMEMBERED)

    def link_up(self) -> None:
        """Messages can be sent again."""
        self._hand_over(None)

    def piece_arrived(self, topic: str, payload: bytes) -> None:
        """Something came on a topic of files; raises `ProtocolError` where it is too large for any."""
        if len(payload) > LARGEST_PIECE_BYTES:
            raise ProtocolError(f"a piece of a file has {len(payload)} bytes, expected at most {LARGEST_PIECE_BYTES}")
        self._hand_over((topic, payload))

    def fetch(self, wanted: Wanted, stop: Event) -> None:
        """Make `wanted.target` hold the wanted content; raises `BundleError`, and `OSError` where the disk fails."""
        if wanted.size > MAX_FILE_BYTES:
            raise BundleError(f"{wanted.path} has {wanted.size} bytes, by MQTT at most {MAX_FILE_BYTES} can be fetched")
        with self._one_at_a_time:
            inbox = self._inbox = queue.Queue(MAX_WANTED)
            try:
                logger.info("%s: fetching %s by MQTT", self._credentials.device, wanted.path)
                self._transfer(wanted, stop, inbox)
            finally:
                self._inbox = None

    def _hand_over(self, piece: _Piece) -> None:
        inbox = self._inbox
        if inbox is not None:
            try:
                inbox.put_nowait(piece)
            except queue.Full:
                logger.debug("a piece of a file came too early and is lost")

    def _transfer(self, wanted: Wanted, stop: Event, inbox: queue.Queue[_Piece]) -> None:
        fetching = _Fetching(wanted, self._credentials, self._refused, self._clock())
        while not fetching.done:
            now = self._clock()
            fetching.require_hope(now, stop)
            if now >= fetching.due:
                self._ask(fetching.question(now))
            try:
                piece = inbox.get(timeout=min(_STOP_SECONDS, max(0.0, fetching.due - now)))
            except queue.Empty:
                continue
            fetching.take(piece, self._clock())

    def _ask(self, want: Want) -> None:
        payload = self._credentials.sign_want(encode(want))
        self._loop.call_soon_threadsafe(self._spawn, payload)

    def _spawn(self, payload: bytes) -> None:
        task = self._loop.create_task(self._send(payload))
        self._publishing.add(task)
        task.add_done_callback(self._publishing.discard)

    async def _send(self, payload: bytes) -> None:
        try:
            await self._publish(topics.want(self._credentials.device), payload)
        except LinkError as error:
            logger.debug("%s: not asked for a file: %s", self._credentials.device, error)


class _Fetching:
    """One file: its transfer, and what of it is on disk."""

    def __init__(self, wanted: Wanted, credentials: Credentials, refused: deque[bytes], now: float) -> None:
        most = wanted.size + SEALED_OVERHEAD
        self._wanted = wanted
        self._credentials = credentials
        self._refused = refused
        self._part = SealedPart(wanted.target.with_name(f"{wanted.target.name}.sealed"), most)
        self._transfer = FileTransfer(wanted.path, most, now, self._part.begun(), refused)
        self._failures = 0
        self.done = False
        self._finish_if_whole(now)

    @property
    def due(self) -> float:
        return self._transfer.due

    def question(self, now: float) -> Want:
        return self._transfer.ask(now, random.random())

    def require_hope(self, now: float, stop: Event) -> None:
        if stop.is_set():
            raise BundleError(f"{self._wanted.path} was not fetched: the transfer was stopped")
        if self._transfer.hopeless(now):
            waited = f"no answer in {PATIENCE_SECONDS:g} s"
            raise UnreachableError(f"{self._wanted.path} could not be fetched by MQTT: {waited}")
        if self._failures >= MOST_FAILURES:
            raise SpoiltError(f"{self._wanted.path} could not be fetched by MQTT: what comes is not that file")

    def take(self, piece: _Piece, now: float) -> None:
        if piece is None:
            self._transfer.link_up(now)
            return
        try:
            self._take_piece(topics.parse_file(piece[0]), piece[1], now)
        except ProtocolError as error:
            logger.debug("%s: a piece of a file was ignored: %s", self._credentials.device, error)

    def _take_piece(self, part: topics.FilePart, payload: bytes, now: float) -> None:
        digest = bytes.fromhex(part.sha256)
        if part.chunk is None:
            manifest = decode(payload, Manifest)
            if manifest.sha256 == digest and self._transfer.announced(manifest, now):
                self._part.begin(manifest)
        elif self._transfer.manifest is not None and self._transfer.lacks(digest, part.chunk):
            self._part.keep(self._transfer.manifest, part.chunk, payload)
            self._transfer.arrived(part.chunk, now)
            self._finish_if_whole(now)

    def _finish_if_whole(self, now: float) -> None:
        manifest = self._transfer.manifest
        if manifest is None or not self._transfer.whole:
            return
        try:
            payload = self._part.payload(manifest)
        except ProtocolError as error:
            self._fail(error)
            self._part.begin(manifest)
            self._transfer.spoilt(now)
            return
        self._refused.append(manifest.sha256)
        try:
            self._keep(self._credentials.open_file(self._wanted.path, payload))
        except ProtocolError as error:
            self._fail(error)
            self._transfer.refused(now)
        self._part.remove()

    def _keep(self, content: bytes) -> None:
        wanted = self._wanted
        if sha256(content).hexdigest() != wanted.sha256:
            raise ProtocolError(f"the content does not have SHA-256 {wanted.sha256}")
        if wanted.exact and len(content) != wanted.size:
            raise ProtocolError(f"the content has {len(content)} bytes, expected {wanted.size}")
        note(wanted.target, part_of(wanted).write_bytes(content))
        finish(wanted)
        self.done = True
        logger.info("%s: fetched %s by MQTT, %d bytes", self._credentials.device, wanted.path, len(content))

    def _fail(self, error: ProtocolError) -> None:
        self._failures += 1
        logger.warning("%s: %s came by MQTT, but %.300r", self._credentials.device, self._wanted.path, str(error))
