"""Route what devices send: states and whole updates to the inbox, manifests to an answer.

Runs in the event loop as messages come and never blocks for long. Updates of other runs on the same broker belong to
another server and are left alone.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from server.downlink import Downlink
from server.inbox import Inbox, StateReport
from server.traffic import Traffic
from server.uplink import Uplink
from wire_protocol import messages, topics
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import DeviceState, Manifest, Receipt
from wire_protocol.topics import Part

logger = logging.getLogger(__name__)

LARGEST_STATE_BYTES = 4096


class Answers(Protocol):
    """Knows which answer stands for an announced update."""

    def standing(self, part: Part, sha256: bytes) -> Receipt | None:
        """The answer to give at once, or None when the update is to be sent and judged."""
        ...

    def refuse(self, part: Part, sha256: bytes, reason: str) -> Receipt:
        """Refuse the update for good."""
        ...


@dataclass(frozen=True)
class Intake:
    """Message handling of one run."""

    run: str
    uplink: Uplink
    downlink: Downlink
    traffic: Traffic
    answers: Answers
    inbox: Inbox

    def on_message(self, topic: str, payload: bytes) -> None:
        """Take any message; one that is not legal is logged and ignored."""
        try:
            if topic.startswith(f"{topics.ROOT}/state/"):
                self._on_state(topics.parse_state(topic), payload)
            else:
                self._on_piece(topics.parse_part(topic), payload)
        except ProtocolError as error:
            logger.warning("message on %.200r ignored: %.300r", topic, str(error))

    def _on_state(self, device: str, payload: bytes) -> None:
        if not payload:
            return
        if len(payload) > LARGEST_STATE_BYTES:
            raise ProtocolError(f"state has {len(payload)} bytes, expected at most {LARGEST_STATE_BYTES}")
        self.traffic.received(len(payload))
        self.inbox.put_state(StateReport(device, messages.decode(payload, DeviceState)))

    def _on_piece(self, part: Part, payload: bytes) -> None:
        if part.run != self.run:
            return
        self.traffic.received(len(payload))
        if part.chunk is None:
            self._on_manifest(part, messages.decode(payload, Manifest))
            return
        complete = self.uplink.chunk(part, payload)
        if complete is not None:
            self.inbox.put_update(complete)

    def _on_manifest(self, part: Part, manifest: Manifest) -> None:
        receipt = self.answers.standing(part, manifest.sha256)
        if receipt is not None:
            self.downlink.receipt(part.device, receipt)
            return
        try:
            need = self.uplink.manifest(part, manifest)
        except ProtocolError as error:
            self.downlink.receipt(part.device, self.answers.refuse(part, manifest.sha256, str(error)))
            return
        if need is not None:
            self.downlink.need(part.device, need)
