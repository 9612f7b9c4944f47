"""What goes down to devices: names the topic, counts the bytes, cuts slices into chunks.

`send` is the link's: it takes a message or drops it when the broker is away. Nothing rests on delivery: a plan is
published again on reconnection, a receipt is given again when its manifest is repeated, and a device that waits for
its slice in vain fetches the whole model.
"""

from __future__ import annotations

from typing import Protocol

from server.traffic import Traffic
from wire_protocol import chunking, messages, topics
from wire_protocol.messages import Need, Receipt, RoundPlan
from wire_protocol.topics import Part


class Send(Protocol):
    """Give a message to the broker at QoS 1; True unless it was dropped."""

    def __call__(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Do so."""
        ...


class Downlink:
    """Messages of one run's server to its devices."""

    def __init__(self, send: Send, traffic: Traffic, chunk_bytes: int) -> None:
        self._send = send
        self._traffic = traffic
        self._chunk_bytes = chunk_bytes

    def plan(self, plan: RoundPlan, receivers: int) -> None:
        """Publish the retained plan, which this many devices hear at once."""
        payload = messages.encode(plan)
        if self._send(topics.plan(plan.run), payload, retain=True):
            self._traffic.sent(len(payload), receivers)

    def retained_plan_read(self, plan: RoundPlan) -> None:
        """Note that a device connected and was given the retained plan by the broker."""
        self._traffic.sent(len(messages.encode(plan)))

    def withdraw_plan(self, run: str) -> None:
        """Clear the retained plan."""
        self._send(topics.plan(run), b"", retain=True)

    def receipt(self, device: str, receipt: Receipt) -> None:
        """Answer an update."""
        self._deliver(topics.receipt(device), messages.encode(receipt))

    def need(self, device: str, need: Need) -> None:
        """Ask for chunks."""
        self._deliver(topics.need(device), messages.encode(need))

    def slice_(self, device: str, plan: RoundPlan, payload: bytes) -> None:
        """Send an encoded `Slice`: its manifest, then its chunks."""
        manifest = chunking.manifest_of(payload, self._chunk_bytes)
        self._deliver(topics.slice_(Part(device, plan.run, plan.round, None)), messages.encode(manifest))
        for index in range(manifest.chunk_count):
            part = Part(device, plan.run, plan.round, index)
            self._deliver(topics.slice_(part), chunking.chunk(payload, manifest, index))

    def _deliver(self, topic: str, payload: bytes) -> None:
        if self._send(topic, payload):
            self._traffic.sent(len(payload))
