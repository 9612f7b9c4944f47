"""All that the doctor tries, in order; where the broker cannot be reached, nothing after that."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import aiomqtt

from devices.brokers.needs import LARGEST_PAYLOAD
from devices.doctor.access import examine_access
from devices.doctor.delivery import RUN, Bench, examine_burst, examine_queue, examine_size
from devices.doctor.participant import participant
from devices.doctor.raw_connection import RefusedError
from devices.doctor.reaching import examine_reach
from devices.doctor.seats import Seat, Seats
from devices.doctor.standing import Memory, examine_persistence, examine_retained, examine_will
from edge_client.findings import Finding
from wire_protocol import topics
from wire_protocol.topics import Part

Check: TypeAlias = Callable[[Bench], Awaitable[list[Finding]]]


async def examine(seats: Seats, memory: Memory, seconds: float) -> list[Finding]:
    """Try everything that these seats allow; each answer may take so many seconds."""
    findings = await examine_reach(seats.device, seconds)
    if any(finding.level == "bad" for finding in findings):
        return findings
    if seats.server is None:
        return findings + await _examine_alone(seats.device, seconds)
    bench = Bench(seats.device, seats.server, seconds)
    checks: dict[str, Check] = {
        "delivery": examine_size,
        "order": examine_burst,
        "retained": examine_retained,
        "last will": examine_will,
        "access": lambda tried: examine_access(seats, tried),
        "queue": examine_queue,
        "persistence": lambda tried: examine_persistence(tried, memory),
    }
    for name, check in checks.items():
        findings += await _guarded(name, check(bench))
    return findings


async def _guarded(name: str, check: Awaitable[list[Finding]]) -> list[Finding]:
    try:
        return await check
    except (aiomqtt.MqttError, RefusedError, OSError) as error:
        return [Finding(name, "bad", f"could not be tried: {error}", "look into the broker's log")]


async def _examine_alone(seat: Seat, seconds: float) -> list[Finding]:
    """What one device can try: it cannot read what it sends, so acknowledgements must do."""
    findings = []
    payload, topic = bytes(LARGEST_PAYLOAD), topics.uplink(Part(seat.name, RUN, 1, 0))
    size = f"{LARGEST_PAYLOAD // 1024} KB"
    try:
        async with participant(seat, seconds) as device:
            granted = await device.subscribe(topics.downlink_filter(seat.name), topics.plan("+"))
            await device.publish(topic, payload)
    except aiomqtt.MqttError as error:
        text = f"the broker ends the connection where the device subscribes or sends {size} ({error})"
        return [Finding("size", "bad", text, "run this with --fleet, where the fleet's folder is, to know more")]
    if not granted:
        text = "the broker refuses the device's subscriptions"
        findings.append(Finding("access", "bad", text, "use the access rules that fisherfleet broker-config writes"))
    findings.append(Finding("size", "good", f"a message of {size} is acknowledged"))
    text = "whether messages arrive a device cannot see: run this with --fleet, where the fleet's folder is"
    return [*findings, Finding("delivery", "unknown", text)]
