"""What goes down to devices: signs it, names the topic, counts the bytes, seals slices and cuts them into chunks.

`send` is the link's: it takes a message or drops it when the broker is away. Nothing rests on delivery: a plan is
published again on reconnection, a receipt is given again when its manifest is repeated, and a device that waits for
its slice in vain fetches the whole model.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from server.operator_keys import Operator
from server.traffic import Traffic
from wire_protocol import chunking, messages, topics
from wire_protocol.envelope import Context, Kind, seal, sign
from wire_protocol.identity import PublicKeys
from wire_protocol.messages import Message, Need, Receipt, RoundPlan
from wire_protocol.topics import Part


class Send(Protocol):
    """Give a message to the broker at QoS 1; True unless it was dropped."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Do so."""
        ...


class Downlink:
    """Messages of the operator's server to devices."""

    def __init__(self, send: Send, traffic: Traffic, chunk_bytes: int, operator: Operator) -> None:
        self._send = send
        self._traffic = traffic
        self._chunk_bytes = chunk_bytes
        self._operator = operator

    def plan(self, plan: RoundPlan, receivers: int) -> None:
        """Publish the retained plan, which this many devices hear at once."""
        payload = self._signed_plan(plan)
        if self._send(topics.plan(plan.run), payload, retain=True):
            self._traffic.sent(len(payload), receivers)

    def retained_plan_read(self, plan: RoundPlan, readers: int) -> None:
        """Note that so many devices connected and were given the retained plan by the broker."""
        if readers:
            self._traffic.sent(len(self._signed_plan(plan)), readers)

    def withdraw_plan(self, run: str) -> None:
        """Clear the retained plan."""
        self._send(topics.plan(run), b"", retain=True)

    def receipt(self, device: str, receipt: Receipt) -> None:
        """Answer an update."""
        self._deliver(topics.receipt(device), self._signed_for("receipt", device, receipt))

    def need(self, device: str, need: Need) -> None:
        """Ask for chunks."""
        self._deliver(topics.need(device), self._signed_for("need", device, need))

    def sealed_slice(self, device: str, keys: Sequence[PublicKeys], plan: RoundPlan, message: bytes) -> bytes:
        """Seal an encoded `Slice` for the newest of the device's keys; sends nothing, and may run in any thread."""
        context = Context("slice", self._operator.fleet, plan.run, plan.round, device)
        return seal(message, context, self._operator.identities, keys[0])

    def slice_(self, device: str, plan: RoundPlan, payload: bytes) -> None:
        """Send a sealed slice: its manifest, then its chunks."""
        manifest = chunking.manifest_of(payload, self._chunk_bytes)
        self._deliver(topics.slice_(Part(device, plan.run, plan.round, None)), messages.encode(manifest))
        for index in range(manifest.chunk_count):
            part = Part(device, plan.run, plan.round, index)
            self._deliver(topics.slice_(part), chunking.chunk(payload, manifest, index))

    def _signed_plan(self, plan: RoundPlan) -> bytes:
        return sign(messages.encode(plan), Context("plan", self._operator.fleet, plan.run), self._operator.identities)

    def _signed_for(self, kind: Kind, device: str, message: Message) -> bytes:
        context = Context(kind, self._operator.fleet, device=device)
        return sign(messages.encode(message), context, self._operator.identities)

    def _deliver(self, topic: str, payload: bytes) -> None:
        if self._send(topic, payload):
            self._traffic.sent(len(payload))
