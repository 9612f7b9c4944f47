"""An MQTT 3.1.1 client that costs almost nothing, so that a benchmark measures the server and not its load.

One asyncio transport a client; QoS 1 both ways; no retries, no TLS, no keep-alive: for loopback, for minutes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import count

_CONNECT, _PUBLISH, _PUBACK, _SUBSCRIBE, _SUBACK = 1, 3, 4, 8, 9
_MOST_IDENTIFIERS = 65_535


class LightClient(asyncio.Protocol):
    """Calls `on_message(topic, payload)` for each message; `ready` is set once the subscription stands."""

    def __init__(self, name: str, topics: tuple[str, ...], on_message: Callable[[str, bytes], None]) -> None:
        self._name = name
        self._topics = topics
        self._on_message = on_message
        self._transport: asyncio.Transport | None = None
        self._buffer = bytearray()
        self._identifiers = count(1)
        self.ready = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Connect with a clean session, then subscribe."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._send(_CONNECT << 4, _text("MQTT") + b"\x04\x02\x00\x00" + _text(self._name))
        filters = b"".join(_text(topic) + b"\x01" for topic in self._topics)
        self._send(_SUBSCRIBE << 4 | 2, self._identifier() + filters)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Send a message at QoS 1; the broker's answer is not waited for."""
        self._send(_PUBLISH << 4 | 2 | retain, _text(topic) + self._identifier() + payload)

    def close(self) -> None:
        """Leave without a word."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take all whole packets."""
        self._buffer += data
        while (found := _packet(self._buffer)) is not None:
            first, start, end = found
            body = bytes(self._buffer[start:end])
            del self._buffer[:end]
            self._handle(first, body)

    def _handle(self, first: int, body: bytes) -> None:
        kind, quality = first >> 4, first >> 1 & 3
        if kind == _SUBACK:
            self.ready.set_result(None)
        elif kind == _PUBLISH:
            length = int.from_bytes(body[:2], "big")
            topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
            if quality:
                self._send(_PUBACK << 4, rest[:2])
                rest = rest[2:]
            self._on_message(topic, rest)

    def _identifier(self) -> bytes:
        return (next(self._identifiers) % _MOST_IDENTIFIERS + 1).to_bytes(2, "big")

    def _send(self, first: int, body: bytes) -> None:
        assert self._transport is not None
        self._transport.write(bytes([first]) + _length(len(body)) + body)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return len(encoded).to_bytes(2, "big") + encoded


def _length(length: int) -> bytes:
    digits = bytearray()
    while True:
        length, digit = divmod(length, 128)
        digits.append(digit | (128 if length else 0))
        if not length:
            return bytes(digits)


def _packet(buffer: bytearray) -> tuple[int, int, int] | None:
    """First byte, and where the body of the first whole packet begins and ends."""
    length = 0
    for place, digit in enumerate(buffer[1:5]):
        length |= (digit & 127) << 7 * place
        if not digit & 128:
            end = place + 2 + length
            return (buffer[0], place + 2, end) if len(buffer) >= end else None
    return None
