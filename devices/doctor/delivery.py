"""Does what is published arrive: whole, up to the size we need, all of it, in order, and for a slow reader too."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Literal

import aiomqtt

from devices.brokers.needs import LARGEST_PAYLOAD, MAX_PACKET_BYTES, QUEUED_MESSAGES
from devices.doctor.participant import Participant, participant
from devices.doctor.seats import Seat
from edge_client.findings import Finding
from wire_protocol import topics
from wire_protocol.topics import Part

RUN = "doctor"
LARGEST_TRIED = 128 * 1024
BURST = 40
QUEUE = 1500
"""More than Mosquitto's default of 1000 and EMQX's."""
_KIB = 1024
_RAISE_LIMIT = (
    f"let {MAX_PACKET_BYTES // _KIB} KB pass (mosquitto: max_packet_size {MAX_PACKET_BYTES} and no message_size_limit; "
    f"EMQX: mqtt.max_packet_size = {MAX_PACKET_BYTES // _KIB}KB)"
)
_RAISE_QUEUE = f"mosquitto: max_queued_messages {QUEUED_MESSAGES}; EMQX: mqtt.max_mqueue_len = {QUEUED_MESSAGES}"

Fate = Literal["arrived", "acknowledged and dropped", "answered by a disconnection"]


@dataclass(frozen=True)
class Bench:
    """Who publishes, who reads, and how long an answer may take."""

    device: Seat
    server: Seat
    seconds: float

    @asynccontextmanager
    async def both(self) -> AsyncIterator[tuple[Participant, Participant]]:
        """The device, and the server subscribed to what it sends."""
        async with participant(self.server, self.seconds) as server, participant(self.device, self.seconds) as device:
            await server.subscribe(f"{topics.ROOT}/up/{self.device.name}/#")
            yield device, server

    def topic(self, chunk: int) -> str:
        """A topic that the device may publish on."""
        return topics.uplink(Part(self.device.name, RUN, 1, chunk))


async def examine_size(bench: Bench) -> list[Finding]:
    """How large a message arrives, found by halving where 128 KB does not."""
    if not await _arrives_at_all(bench):
        text = "a message is acknowledged and does not reach a subscriber"
        advice = "the access rules forbid it: use those of fisherfleet broker-config"
        return [Finding("delivery", "bad", text, advice)]
    delivered = Finding("delivery", "good", "a message published with QoS 1 arrives")
    fate = await _fate(bench, LARGEST_TRIED)
    if fate == "arrived":
        return [delivered, Finding("size", "good", f"messages of {LARGEST_TRIED // _KIB} KB arrive")]
    low, high = 0, LARGEST_TRIED // _KIB
    while high - low > 1:
        middle = (low + high) // 2
        fate_here = await _fate(bench, middle * _KIB)
        low, high, fate = (middle, high, fate) if fate_here == "arrived" else (low, middle, fate_here)
    enough = low * _KIB >= LARGEST_PAYLOAD
    text = f"messages above {low} KB are {fate}; devices send {LARGEST_PAYLOAD // _KIB} KB"
    return [delivered, Finding("size", "good" if enough else "bad", text, "" if enough else _RAISE_LIMIT)]


async def examine_burst(bench: Bench) -> list[Finding]:
    """Whether messages sent without waiting for acknowledgements all arrive, in order."""
    expected = [str(number).encode() for number in range(BURST)]
    async with bench.both() as (device, server):
        await asyncio.gather(*(device.publish(bench.topic(1), payload) for payload in expected))
        await device.publish(bench.topic(2), b"end")
        before = await server.until(b"end")
    payloads = [message.payload for message in before or []]
    if payloads == expected:
        return [Finding("order", "good", f"{BURST} messages sent at once arrive, in order")]
    if sorted(payloads) == sorted(expected):
        return [Finding("order", "good", f"{BURST} messages sent at once arrive, not in order, which costs nothing")]
    lost, repeated = set(expected) - set(payloads), len(payloads) - len(set(payloads))
    text = f"of {BURST} messages sent at once {len(lost)} did not arrive and {repeated} arrived twice"
    return [Finding("order", "bad" if lost else "weak", text, "look into the broker's log and its limits")]


async def examine_queue(bench: Bench) -> list[Finding]:
    """How many messages the broker holds for a reader that is not reading, tried with one that is away."""
    name = f"{topics.ROOT}/up/{bench.device.name}/#"
    async with participant(bench.server, bench.seconds, clean=False) as server:
        await server.subscribe(name)
    try:
        async with participant(bench.device, bench.seconds) as device:
            for start in range(0, QUEUE, 100):
                numbers = range(start, start + 100)
                await asyncio.gather(*(device.publish(bench.topic(n), str(n).encode()) for n in numbers))
            async with participant(bench.server, bench.seconds, clean=False) as server:
                kept = {message.payload for message in await server.quiet(min(bench.seconds, 2.0))}
    finally:
        async with participant(bench.server, bench.seconds):
            pass  # a clean session ends the other
    if len(kept) >= QUEUE:
        return [Finding("queue", "good", f"{QUEUE} messages wait for a reader that is away")]
    if not kept:
        return [Finding("queue", "unknown", "no session outlives its connection, so queues cannot be tried")]
    text = f"of {QUEUE} messages for a reader that is away, {len(kept)} were kept, and the sender was told nothing"
    return [Finding("queue", "weak", text, _RAISE_QUEUE)]


async def _arrives_at_all(bench: Bench) -> bool:
    async with bench.both() as (device, server):
        await device.publish(bench.topic(0), b"hello")
        return await server.until(b"hello") is not None


async def _fate(bench: Bench, size: int) -> Fate:
    try:
        async with bench.both() as (device, server):
            await device.publish(bench.topic(0), bytes(size))
            await device.publish(bench.topic(1), b"after")
            before = await server.until(b"after")
    except aiomqtt.MqttError:
        return "answered by a disconnection"
    if before is None:
        return "answered by a disconnection"
    return "arrived" if any(len(message.payload) == size for message in before) else "acknowledged and dropped"
