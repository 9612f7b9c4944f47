"""Do the broker's access rules hold: what `wire_protocol.topics.ACCESS_RULES` allows passes, all else does not.

A broker may refuse in three ways: by a failure code, by a disconnection, or by acknowledging and doing nothing. So each
forbidden thing is tried on a connection of its own, and judged by what arrives.
"""

from __future__ import annotations

from contextlib import suppress

import aiomqtt

from devices.doctor.delivery import RUN, Bench
from devices.doctor.participant import Participant, participant
from devices.doctor.raw_connection import RefusedError, raw_connection
from devices.doctor.seats import Seat, Seats
from edge_client.findings import Finding
from wire_protocol import topics
from wire_protocol.topics import Part

_FORGED, _SECRET, _END = b"forged", b"secret", b"end"
_RULES = "use the access rules that fisherfleet broker-config writes"
_CLIENT_ID = "mosquitto: use_username_as_clientid true; EMQX: mqtt.peer_cert_as_clientid = cn"


async def examine_access(seats: Seats, bench: Bench) -> list[Finding]:
    """What is allowed, what is refused, and whether a certificate is tied to its name."""
    if seats.other is None:
        return []
    findings = await _allowed(bench)
    holes = [
        text for check in (_publishing_as_another, _reading_of_another) for text in await check(bench, seats.other)
    ]
    if holes:
        findings += [Finding("access", "weak", f"a device can {text}", _RULES) for text in holes]
    else:
        findings.append(Finding("access", "good", "no device can write or read what is another's"))
    if seats.ruled:
        findings += await _identity(seats, bench)
    return findings


async def _allowed(bench: Bench) -> list[Finding]:
    """The device's state, what the server sends it and what it sends all; the rest `examine_size` has tried."""
    name = bench.device.name
    down, cast = topics.receipt(name), topics.plan(RUN)
    broken = []
    async with participant(bench.server, bench.seconds) as server, participant(bench.device, bench.seconds) as device:
        await server.subscribe(topics.STATE_FILTER)
        await device.subscribe(topics.downlink_filter(name), f"{topics.ROOT}/cast/doctor/#")
        for sender, reader, topic in (
            (server, device, down),
            (server, device, cast.replace("/plan", "/try")),
            (device, server, topics.state(name)),
        ):
            if not await _passes(sender, reader, topic):
                broken.append(topic)
    if broken:
        text = f"what must pass does not: {', '.join(broken)}"
        return [Finding("access", "bad", text, _RULES)]
    return [Finding("access", "good", "what devices and server need to write and read passes")]


async def _passes(sender: Participant, reader: Participant, topic: str) -> bool:
    try:
        await sender.publish(topic, topic.encode())
    except aiomqtt.MqttError:
        return False
    return await reader.until(topic.encode()) is not None


async def _publishing_as_another(bench: Bench, other: Seat) -> list[str]:
    """What of another's a device can write; everything that arrives is seen by the server or by the other."""
    tried = {
        topics.uplink(Part(other.name, RUN, 1, 0)): "send updates as another device",
        topics.state(other.name): "speak of another device's state",
        topics.receipt(other.name): "send receipts to another device",
        f"{topics.ROOT}/cast/doctor/forged": "publish what only the server should",
    }
    async with participant(bench.server, bench.seconds) as server, participant(other, bench.seconds) as victim:
        await server.subscribe(topics.UPLINK_FILTER, topics.STATE_FILTER)
        await victim.subscribe(topics.downlink_filter(other.name), f"{topics.ROOT}/cast/doctor/#")
        for topic in tried:
            await _forge(bench, topic)
        await _mark(bench)
        seen = await server.until(_END) or []
        await server.publish(topics.receipt(other.name), _END)
        seen += await victim.until(_END) or []
    arrived = {message.topic for message in seen if message.payload == _FORGED}
    return [text for topic, text in tried.items() if topic in arrived]


async def _reading_of_another(bench: Bench, other: Seat) -> list[str]:
    """What of another's a device can read."""
    down, up = topics.receipt(other.name), topics.uplink(Part(other.name, RUN, 1, 0))
    tried = {
        topics.downlink_filter(other.name): (down, "read what the server sends to another device"),
        topics.UPLINK_FILTER: (up, "read what other devices send"),
    }
    holes = []
    for name, (topic, text) in tried.items():
        with suppress(aiomqtt.MqttError):
            async with (
                participant(bench.device, bench.seconds) as thief,
                participant(bench.server, bench.seconds) as server,
                participant(other, bench.seconds) as victim,
            ):
                await thief.subscribe(topics.downlink_filter(bench.device.name))
                with suppress(aiomqtt.MqttError):
                    await thief.subscribe(name)
                await (server if topic == down else victim).publish(topic, _SECRET)
                await server.publish(topics.receipt(bench.device.name), _END)
                if any(message.payload == _SECRET for message in await thief.until(_END) or []):
                    holes.append(text)
    return holes


async def _identity(seats: Seats, bench: Bench) -> list[Finding]:
    """Whether the certificate's name binds its holder, and whether one is needed at all."""
    findings = []
    if seats.other is not None and await _throws_off(bench, seats.other):
        text = "a device can end the connection of another by using its client id"
        findings.append(Finding("identity", "weak", text, _CLIENT_ID))
    else:
        findings.append(Finding("identity", "good", "a device cannot take another's name"))
    if seats.stranger is not None and await _gets_in(seats.stranger, bench.seconds):
        text = "a client without a certificate gets in"
        advice = "mosquitto: require_certificate true and allow_anonymous false; EMQX: fail_if_no_peer_cert = true"
        findings.append(Finding("identity", "weak", text, advice))
    elif seats.stranger is not None:
        findings.append(Finding("identity", "good", "without a certificate of the fleet nobody gets in"))
    return findings


async def _throws_off(bench: Bench, other: Seat) -> bool:
    """Connect with the device's certificate under the other's client id, and see whether the other survives."""
    try:
        async with participant(other, bench.seconds) as victim:
            with suppress(OSError, RefusedError, TimeoutError):
                async with raw_connection(bench.device.named(other.name), bench.seconds):
                    pass
            await victim.publish(topics.state(other.name), b"")
    except aiomqtt.MqttError:
        return True
    return False


async def _gets_in(seat: Seat, seconds: float) -> bool:
    try:
        async with raw_connection(seat, seconds):
            return True
    except (OSError, RefusedError, TimeoutError):
        return False


async def _forge(bench: Bench, topic: str) -> None:
    """Publish on a connection of its own; a broker that ends it has refused."""
    with suppress(aiomqtt.MqttError):
        async with participant(bench.device, bench.seconds) as forger:
            await forger.publish(topic, _FORGED)


async def _mark(bench: Bench) -> None:
    async with participant(bench.device, bench.seconds) as device:
        await device.publish(bench.topic(9), _END)
