"""MQTT 3.1.1 control packets, as far as a broker in the middle must know them (OASIS, 2014, sections 2 and 3.3)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

PUBLISH, PUBACK = 3, 4
LENGTH_DIGITS = 4


@dataclass(frozen=True)
class Packet:
    """A control packet: type, the four flag bits of its first byte, and all after the length."""

    kind: int
    flags: int
    body: bytes

    def encoded(self) -> bytes:
        """The packet's bytes."""
        length, digits = len(self.body), bytearray()
        while True:
            length, digit = divmod(length, 128)
            digits.append(digit | (0x80 if length else 0))
            if not length:
                return bytes([self.kind << 4 | self.flags]) + bytes(digits) + self.body


@dataclass(frozen=True)
class Publish:
    """A message; `identifier` is None at QoS 0."""

    topic: str
    payload: bytes
    retain: bool
    identifier: int | None

    @classmethod
    def of(cls, packet: Packet) -> Publish:
        """Read a PUBLISH packet."""
        end = 2 + int.from_bytes(packet.body[:2])
        topic, rest = packet.body[2:end].decode(), packet.body[end:]
        if not packet.flags >> 1 & 3:
            return cls(topic, rest, bool(packet.flags & 1), None)
        return cls(topic, rest[2:], bool(packet.flags & 1), int.from_bytes(rest[:2]))

    def packet(self) -> Packet:
        """The packet that says this, at QoS 1 or 0."""
        name = self.topic.encode()
        head = len(name).to_bytes(2) + name
        if self.identifier is None:
            return Packet(PUBLISH, int(self.retain), head + self.payload)
        return Packet(PUBLISH, 2 | int(self.retain), head + self.identifier.to_bytes(2) + self.payload)

    def unacknowledged(self) -> Publish:
        """The same at QoS 0, which can be slipped in at any time."""
        return replace(self, identifier=None)


async def read_packet(source: asyncio.StreamReader) -> Packet:
    """The next packet; raises `asyncio.IncompleteReadError` at the end of the stream."""
    first = (await source.readexactly(1))[0]
    length = 0
    for place in range(LENGTH_DIGITS):
        digit = (await source.readexactly(1))[0]
        length |= (digit & 0x7F) << 7 * place
        if not digit & 0x80:
            break
    return Packet(first >> 4, first & 15, await source.readexactly(length))
