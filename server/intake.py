"""Route what devices send: states and whole updates to the inbox, manifests to an answer.

Runs in the event loop as messages come and never blocks for long. Updates of runs that are unknown here belong to
another server on the same broker and are left alone; those of runs that are over get the answer that stands. Nothing is
believed here but the topic: it costs its device at most a place in the queue and an allowance of answers. A device that
is not enrolled or was revoked gets neither room nor memory, only a refusal, now and then.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

from server.allowance import Allowance
from server.downlink import Downlink
from server.errors import StorageError
from server.inbox import Inbox, StateReport
from server.opening import stranger
from server.receipts import refusal
from server.registry import Registry
from server.traffic import Traffic
from server.uplink import Uplink
from wire_protocol import messages, topics
from wire_protocol.device_state import DeviceState
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import Manifest, Receipt
from wire_protocol.topics import Part

logger = logging.getLogger(__name__)

LARGEST_STATE_BYTES = 4096
LARGEST_MANIFEST_BYTES = 1024
LARGEST_WANT_BYTES = 2048
LARGEST_REPORT_BYTES = 4096
_ANSWERS_A_SECOND, _ANSWERS_AT_ONCE = 2.0, 32
"""Answers to one device; honest ones announce a payload less than once a second, all that wait when they reconnect."""
_LINES_A_SECOND, _LINES_AT_ONCE = 1.0, 20
"""Log lines about what hostile or broken devices send."""
_STRANGERS = "*"
"""All devices that are not enrolled share one allowance, as they could have any number of names."""


class Answers(Protocol):
    """Knows which answer stands for an announced update of its run."""

    @property
    def resting(self) -> bool:
        """Whether what has no answer is not to be sent now: it is announced again."""
        ...

    def standing(self, part: Part, sha256: bytes) -> Receipt | None:
        """The answer to give at once, or None when the update is to be sent and judged."""
        ...


class Desk(NamedTuple):
    """Where the updates of one run are put together, and who answers them."""

    uplink: Uplink
    answers: Answers


def _unknown(part: Part, sha256: bytes) -> Receipt | None:
    del part, sha256
    return None


@dataclass(frozen=True)
class Intake:
    """Message handling of a service. `desks` are those of the runs at hand, by name.

    `on_want` is given what devices ask files with, `on_report` what they say that they run; `past` gives the answer to
    an update of a run that is over, None of any other; `clock` never goes back.
    """

    desks: Mapping[str, Desk]
    downlink: Downlink
    traffic: Traffic
    inbox: Inbox
    registry: Registry
    on_want: Callable[[str, bytes], None]
    on_report: Callable[[str, bytes], None]
    past: Callable[[Part, bytes], Receipt | None] = _unknown
    clock: Callable[[], float] = time.monotonic

    @cached_property
    def _answers_left(self) -> Allowance:
        return Allowance(_ANSWERS_A_SECOND, _ANSWERS_AT_ONCE, self.clock)

    @cached_property
    def _lines_left(self) -> Allowance:
        return Allowance(_LINES_A_SECOND, _LINES_AT_ONCE, self.clock)

    def on_message(self, topic: str, payload: bytes) -> None:
        """Take any message; one that is not legal is logged and ignored."""
        try:
            if topic.startswith(f"{topics.ROOT}/state/"):
                self._on_state(topics.parse_state(topic), payload)
            elif topics.is_report(topic):
                self._on_signed(topics.parse_report(topic), payload, LARGEST_REPORT_BYTES, self.on_report)
            elif topics.is_want(topic):
                self._on_signed(topics.parse_want(topic), payload, LARGEST_WANT_BYTES, self.on_want)
            else:
                self._on_piece(topics.parse_part(topic), payload)
        except ProtocolError as error:
            self._warn("message on %.200r ignored: %.300r", topic, str(error))
        except StorageError as error:
            self._warn("message on %.200r lost, it is asked for again: %.300r", topic, str(error))

    def on_tick(self) -> None:
        """Tell devices that may send now; call it several times a second, and after updates were released."""
        for desk in self.desks.values():
            for device, need in desk.uplink.tick():
                self.downlink.need(device, need)

    def _on_state(self, device: str, payload: bytes) -> None:
        if not payload:
            return
        if len(payload) > LARGEST_STATE_BYTES:
            raise ProtocolError(f"state has {len(payload)} bytes, expected at most {LARGEST_STATE_BYTES}")
        self.traffic.received(len(payload))
        if not self.registry.keys(device):
            raise ProtocolError(stranger(device, self.registry).reason)
        self.inbox.put_state(StateReport(device, messages.decode(payload, DeviceState)))

    def _on_signed(self, device: str, payload: bytes, most: int, take: Callable[[str, bytes], None]) -> None:
        """What a device signed, a request for a file or a report; who is to `take` it checks that."""
        enrolled = bool(self.registry.keys(device))
        if not self._answers_left.take(f"signed/{device}" if enrolled else _STRANGERS):
            return
        if len(payload) > most:
            raise ProtocolError(f"a signed message has {len(payload)} bytes, expected at most {most}")
        self.traffic.received(len(payload))
        if not enrolled:
            raise ProtocolError(stranger(device, self.registry).reason)
        take(device, payload)

    def _on_piece(self, part: Part, payload: bytes) -> None:
        desk = self.desks.get(part.run)
        if part.chunk is None:
            self._on_manifest(part, payload, desk)
            return
        if desk is None:
            return
        self.traffic.received(len(payload))
        complete = desk.uplink.chunk(part, payload)
        if complete is not None:
            self.inbox.put_update(complete)

    def _on_manifest(self, part: Part, payload: bytes, desk: Desk | None) -> None:
        if desk is not None:
            self.traffic.received(len(payload))
        enrolled = bool(self.registry.keys(part.device))
        if desk is None and not enrolled:
            return
        if not self._answers_left.take(part.device if enrolled else _STRANGERS):
            return
        if len(payload) > LARGEST_MANIFEST_BYTES:
            raise ProtocolError(f"manifest has {len(payload)} bytes, expected at most {LARGEST_MANIFEST_BYTES}")
        manifest = messages.decode(payload, Manifest)
        if enrolled:
            self._answer(part, manifest, desk)
            return
        reason = stranger(part.device, self.registry).reason
        self._warn("round %d: update of %s refused: %s", part.round, part.device, reason)
        self.downlink.receipt(part.device, refusal(part, manifest.sha256, reason))

    def _answer(self, part: Part, manifest: Manifest, desk: Desk | None) -> None:
        receipt = (self.past if desk is None else desk.answers.standing)(part, manifest.sha256)
        if receipt is not None:
            self.downlink.receipt(part.device, receipt)
            return
        if desk is None or desk.answers.resting:
            return
        need = desk.uplink.manifest(part, manifest)
        if need is not None:
            self.downlink.need(part.device, need)

    def _warn(self, text: str, *values: object) -> None:
        if self._lines_left.take(text):
            logger.warning(text, *values)
