"""Does the broker keep what must stand: retained messages, last wills, and both over a restart.

A restart cannot be caused from here. So the doctor leaves a small retained mark, and notes in the fleet's folder that
it did: the next time it sees whether the mark is there and, by `$SYS`, whether the broker was restarted meanwhile.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiomqtt
import msgspec

from devices.brokers.needs import UPTIME_TOPICS
from devices.doctor.delivery import Bench
from devices.doctor.participant import participant
from devices.doctor.raw_connection import RefusedError, Will, raw_connection
from edge_client.findings import Finding
from server.fleet.durable_files import write_file
from wire_protocol import topics

RETAINED_TOPIC = f"{topics.ROOT}/cast/doctor/retained"
MARK_TOPIC = f"{topics.ROOT}/cast/doctor/mark"
"""Below `cast/` as the rules want it; no device subscribes to it."""
NOTE_NAME = "doctor.json"

_ALLOW_RETAINED = "allow retained messages (mosquitto: retain_available true; EMQX: mqtt.retain_available = true)"
_PERSIST = "mosquitto: persistence true and autosave_interval 30; EMQX: retainer.backend.storage_type = disc"
_NUMBER = re.compile(rb"\d+")
_UPTIME_SECONDS = 65.0
"""By how much a broker's uptime may be behind: Mosquitto tells it every 10 seconds, EMQX every minute."""


class Note(msgspec.Struct, frozen=True):
    """That a mark was left at a broker, and when, in seconds since the epoch."""

    broker: str
    placed: float


@dataclass(frozen=True)
class Memory:
    """Where the note about a mark is kept; None for nowhere."""

    path: Path | None

    def recall(self, broker: str) -> Note | None:
        """The note about this broker."""
        if self.path is None or not self.path.exists():
            return None
        try:
            note = msgspec.json.decode(self.path.read_bytes(), type=Note)
        except (OSError, msgspec.DecodeError):
            return None
        return note if note.broker == broker else None

    def keep(self, note: Note) -> None:
        """Write it down."""
        if self.path is not None:
            write_file(self.path, msgspec.json.encode(note))


async def examine_retained(bench: Bench) -> list[Finding]:
    """Whether a retained message is kept for who comes later, and goes when it is cleared."""
    try:
        await _retain(bench, RETAINED_TOPIC, b"kept")
        kept = await _stands(bench, RETAINED_TOPIC)
        await _retain(bench, RETAINED_TOPIC, b"")
        cleared = not await _stands(bench, RETAINED_TOPIC)
    except aiomqtt.MqttError:
        text = "a retained message is answered by a disconnection: plans cannot be published"
        return [Finding("retained", "bad", text, _ALLOW_RETAINED)]
    if not kept:
        text = "retained messages are not kept: a device that comes later gets no plan"
        return [Finding("retained", "bad", text, _ALLOW_RETAINED)]
    if not cleared:
        text = "a retained message stays when it is cleared: devices get plans of runs that are over"
        return [Finding("retained", "weak", text, "look into the broker's documentation of retained messages")]
    return [Finding("retained", "good", "retained messages are kept, and cleared")]


async def examine_will(bench: Bench) -> list[Finding]:
    """Whether the broker says that a device is gone when its connection is cut."""
    topic, gone = topics.state(bench.device.name), b"gone"
    async with participant(bench.server, bench.seconds) as server:
        await server.subscribe(topic)
        try:
            async with raw_connection(bench.device, bench.seconds, will=Will(topic, gone)):
                pass
        except (RefusedError, OSError) as error:
            text = f"a connection with a retained last will is refused ({error})"
            return [Finding("last will", "bad", text, _ALLOW_RETAINED)]
        told = await server.until(gone)
    async with participant(bench.device, bench.seconds) as device:
        await device.publish(topic, b"", retain=True)
    if told is None:
        text = "when a device's connection is cut, its last will does not come: rounds wait for devices that are gone"
        return [Finding("last will", "weak", text, "let devices publish their last will on fl/v1/state/NAME")]
    return [Finding("last will", "good", "when a device's connection is cut, its last will comes")]


async def examine_persistence(bench: Bench, memory: Memory, now: float | None = None) -> list[Finding]:
    """Whether a mark left the last time is still there; leaves a new one."""
    now = time.time() if now is None else now
    broker = str(bench.server.broker)
    note = memory.recall(broker)
    stands = await _stands(bench, MARK_TOPIC)
    started = await _started(bench, now)
    await _retain(bench, MARK_TOPIC, b"kept")
    memory.keep(Note(broker, now))
    if note is None:
        text = "cannot be told yet: a mark was left; restart the broker and run this again"
        if memory.path is None:
            text = "cannot be told without --fleet, where the doctor keeps its notes"
        return [Finding("persistence", "unknown", text)]
    if not stands:
        text = "what the last run of this doctor left at the broker is gone: it forgets plans and states at a restart"
        return [Finding("persistence", "weak", text, _PERSIST)]
    if started is not None and started > note.placed + _UPTIME_SECONDS:
        return [Finding("persistence", "good", "retained messages outlived a restart of the broker")]
    text = "the mark of the last run is there, but no restart of the broker since is known; restart it and run again"
    return [Finding("persistence", "unknown", text)]


async def _retain(bench: Bench, topic: str, payload: bytes) -> None:
    async with participant(bench.server, bench.seconds) as server:
        await server.publish(topic, payload, retain=True)


async def _stands(bench: Bench, topic: str) -> bool:
    """Whether one who subscribes now gets a retained message."""
    after = f"{topic}/after"
    async with participant(bench.device, bench.seconds) as device, participant(bench.server, bench.seconds) as server:
        await device.subscribe(topic, after)
        await server.publish(after, b"after")
        before = await device.until(b"after")
    return any(message.retained and message.payload for message in before or [])


async def _started(bench: Bench, now: float) -> float | None:
    """When the broker was started, where it says so."""
    messages = []
    with suppress(aiomqtt.MqttError):  # some brokers end the connection of who asks
        async with participant(bench.server, bench.seconds) as server:
            await server.subscribe(*UPTIME_TOPICS)
            messages = await server.quiet(min(bench.seconds, 1.0))
    for message in messages:
        numbers = _NUMBER.findall(message.payload)
        if len(numbers) == 1:
            return now - int(numbers[0])
    return None
