"""A broker that cannot be trusted: a proxy before a real one that alters, drops, reorders, duplicates and replays.

It knows MQTT and the topics but no key. What it drops or holds back it acknowledges all the same, as brokers do. What
it does is drawn from a seeded generator; `done` counts it.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from tests.faults.mqtt_packets import PUBACK, PUBLISH, Packet, Publish, read_packet
from tests.faults.tcp_relay import TcpRelay

REMEMBERED = 256


@dataclass(frozen=True)
class Malice:
    """Chances, in [0, 1], that a message meets each fate; the rest pass unharmed.

    `redirect` slips in an older message under this one's topic.
    """

    alter: float = 0.0
    drop: float = 0.0
    duplicate: float = 0.0
    delay: float = 0.0
    replay: float = 0.0
    redirect: float = 0.0


class HostileProxy(TcpRelay):
    """A relay to a broker that means ill."""

    def __init__(self, target: int, malice: Malice, seed: int) -> None:
        super().__init__(target)
        self._malice = malice
        self._draw = random.Random(seed)
        self._seen: deque[Publish] = deque(maxlen=REMEMBERED)
        self.done: Counter[str] = Counter()

    async def relay(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, back: asyncio.StreamWriter) -> None:
        """Meddle with messages; all other packets pass."""
        held: list[Publish] = []

        def acknowledge(message: Publish) -> None:
            if message.identifier is not None:
                back.write(Packet(PUBACK, 0, message.identifier.to_bytes(2)).encoded())

        try:
            while True:
                packet = await read_packet(source)
                if packet.kind == PUBLISH:
                    passing = [each.packet() for each in self._meddle(Publish.of(packet), held, acknowledge)]
                else:
                    passing = [packet]
                sink.writelines(each.encoded() for each in passing)
                await sink.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            return

    def _meddle(self, message: Publish, held: list[Publish], acknowledge: Callable[[Publish], None]) -> list[Publish]:
        """What is passed on in place of a message; what was `held` before goes behind it."""
        self._seen.append(message)
        before, held[:] = held[:], []
        fate = self._fate()
        self.done[fate] += 1
        if fate in ("drop", "delay"):
            acknowledge(message)
        if fate == "delay":
            held.append(message.unacknowledged())
        return [*self._in_place_of(message, fate), *before]

    def _in_place_of(self, message: Publish, fate: str) -> list[Publish]:
        older = self._draw.choice(self._seen).unacknowledged()
        return {
            "alter": [self._altered(message)],
            "drop": [],
            "delay": [],
            "duplicate": [message, message.unacknowledged()],
            "replay": [message, older],
            "redirect": [replace(older, topic=message.topic), message],
        }.get(fate, [message])

    def _fate(self) -> str:
        chance = self._draw.random()
        for fate, share in vars(self._malice).items():
            if chance < share:
                return str(fate)
            chance -= share
        return "pass"

    def _altered(self, message: Publish) -> Publish:
        if not message.payload:
            return message
        payload = bytearray(message.payload)
        payload[self._draw.randrange(len(payload))] ^= self._draw.randrange(1, 256)
        return replace(message, payload=bytes(payload))
