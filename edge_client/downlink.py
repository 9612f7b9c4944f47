"""What the server sends, verified, opened and read: slices once whole, all else as it comes. No I/O.

Nothing that the operator did not sign for this fleet and, where it is for one device, for this one, gets past here. At
most one slice is being put together and one is kept, those of the round announced last.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from edge_client.credentials import Credentials
from wire_protocol import topics
from wire_protocol.chunking import Assembly
from wire_protocol.envelope import SEALED_OVERHEAD
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import Manifest, Need, Receipt, RoundPlan, Slice, decode
from wire_protocol.releases import ModelOffer, ReleaseOffer

_OfRun = TypeVar("_OfRun", RoundPlan, ModelOffer)


class Withdrawn:
    """The offer of a release was taken back."""


LARGEST_MESSAGE = 64 * 1024
"""Bytes of a signed message; a piece of a slice may have what its manifest says."""

Incoming = RoundPlan | Slice | Need | Receipt | ReleaseOffer | ModelOffer | Withdrawn


class Downlink:
    """Reads what comes for one device; `run` None takes plans of any run."""

    def __init__(self, credentials: Credentials, run: str | None = None) -> None:
        self._receipt = topics.receipt(credentials.device)
        self._need = topics.need(credentials.device)
        self._release = topics.release(credentials.device)
        self._credentials = credentials
        self._run = run
        self._round: tuple[str, int] | None = None
        self._assembly: Assembly | None = None
        self._slice: Slice | None = None

    def read(self, topic: str, payload: bytes, max_slice: int) -> Incoming | None:
        """The message that this piece completes, if it completes one; raises `ProtocolError` on what is not legal.

        A slice of more than `max_slice` bytes is refused. An empty plan says that a run is over and means nothing here.
        """
        if len(payload) > LARGEST_MESSAGE and "/slice/" not in topic:
            raise ProtocolError(f"a message has {len(payload)} bytes, expected at most {LARGEST_MESSAGE}")
        if topic == self._receipt:
            return decode(self._credentials.verify_receipt(payload), Receipt)
        if topic == self._need:
            return decode(self._credentials.verify_need(payload), Need)
        if topic == self._release:
            signed = self._credentials.verify_release_offer(payload) if payload else None
            return Withdrawn() if signed is None else decode(signed, ReleaseOffer)
        if topic.endswith("/plan"):
            return self._read_of_run(topic, payload, self._credentials.verify_plan, RoundPlan)
        if topic.endswith("/model"):
            return self._read_of_run(topic, payload, self._credentials.verify_model, ModelOffer)
        return self._read_piece(topics.parse_part(topic), payload, max_slice + SEALED_OVERHEAD)

    def slice_of(self, run: str, number: int) -> Slice | None:
        """The slice of a round, if it came before its plan."""
        found = self._slice
        return found if found is not None and (found.run, found.round) == (run, number) else None

    def _read_of_run(
        self, topic: str, payload: bytes, verified: Callable[[str, bytes], bytes], kind: type[_OfRun]
    ) -> _OfRun | None:
        """What all devices of a run are told, None where it was taken back."""
        run = self._run_of(topic)
        if not payload:
            return None
        message = decode(verified(run, payload), kind)
        if message.run != run:
            raise ProtocolError(f"a {topic.rpartition('/')[2]} of run {message.run} came on topic {topic!r}")
        return message

    def _run_of(self, topic: str) -> str:
        before, _, kind = topic.rpartition("/")
        run = before.rpartition("/")[2]
        if topic not in (topics.plan(run), topics.model(run)) or self._run not in (None, run):
            raise ProtocolError(f"a {kind} came on topic {topic!r}, which is not this device's")
        return run

    def _read_piece(self, part: topics.Part, payload: bytes, max_bytes: int) -> Slice | None:
        if part.device != self._credentials.device:
            raise ProtocolError(f"a slice for device {part.device} came to {self._credentials.device}")
        if part.chunk is None:
            self._announce(part, decode(payload, Manifest), max_bytes)
            return None
        if self._assembly is None or self._round != (part.run, part.round):
            return None
        self._assembly.add(part.chunk, payload)
        if not self._assembly.complete:
            return None
        whole, self._assembly = self._assembly.payload(), None
        content = decode(self._credentials.open_slice(part.run, part.round, whole), Slice)
        if (content.run, content.round) != (part.run, part.round):
            raise ProtocolError(f"a slice of {content.run}/{content.round} came as {part.run}/{part.round}")
        self._slice = content
        return content

    def _announce(self, part: topics.Part, manifest: Manifest, max_bytes: int) -> None:
        repeated = self._assembly is not None and self._assembly.manifest == manifest
        if repeated and self._round == (part.run, part.round):
            return
        self._round, self._assembly, self._slice = (part.run, part.round), None, None
        self._assembly = Assembly(manifest, max_bytes)
