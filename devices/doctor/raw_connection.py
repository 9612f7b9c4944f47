"""MQTT 3.1.1 by hand, as far as CONNACK: to see why a broker refuses us, and to vanish without a goodbye.

OASIS MQTT 3.1.1 (2014), sections 3.1 and 3.2. In TLS 1.3 a broker refuses a client's certificate only after the
handshake, so the reason is found by reading on.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from devices.doctor.seats import Seat

_CONNACK_BYTES = 4
_KEEPALIVE_SECONDS = 30


@dataclass(frozen=True)
class Will:
    """What the broker is to publish, retained, when the connection is lost."""

    topic: str
    payload: bytes


class RefusedError(Exception):
    """CONNACK with a code other than 0, section 3.2.2.3; or bytes that are no CONNACK (code -1)."""

    def __init__(self, code: int) -> None:
        super().__init__(f"CONNACK code {code}")
        self.code = code


@asynccontextmanager
async def raw_connection(
    seat: Seat, seconds: float, *, will: Will | None = None
) -> AsyncIterator[asyncio.StreamWriter]:
    """Connect; at the end the connection is cut. Raises `OSError`, `ssl.SSLError`, `RefusedError` or `TimeoutError`."""
    async with asyncio.timeout(seconds):
        reader, writer = await _open(seat, verified=True)
    try:
        async with asyncio.timeout(seconds):
            writer.write(_connect_packet(seat, will))
            await writer.drain()
            answer = await reader.read(_CONNACK_BYTES)
            if len(answer) == 0:
                raise ConnectionResetError("the broker closed the connection and said nothing")
            if len(answer) != _CONNACK_BYTES or answer[0] != 0x20:
                raise RefusedError(-1)
            if answer[3] != 0:
                raise RefusedError(answer[3])
        yield writer
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def pending_alert(seat: Seat, seconds: float) -> ssl.SSLError | None:
    """What a broker that hung up had to say: connect again and only listen, as a reset destroys what was not read."""
    try:
        async with asyncio.timeout(seconds):
            reader, writer = await _open(seat, verified=True)
            try:
                await reader.read(1)
            finally:
                writer.transport.abort()
    except ssl.SSLError as error:
        return error
    except (OSError, TimeoutError):
        return None
    return None


async def broker_certificate(seat: Seat, seconds: float) -> bytes | None:
    """The broker's certificate, DER, whoever signed it; None where the connection fails before it is seen."""
    try:
        async with asyncio.timeout(seconds):
            _, writer = await _open(seat, verified=False)
    except (OSError, TimeoutError):
        return None
    try:
        secured: ssl.SSLObject | None = writer.get_extra_info("ssl_object")
        return secured.getpeercert(binary_form=True) if secured else None
    finally:
        writer.transport.abort()
        with suppress(OSError):
            await writer.wait_closed()


async def _open(seat: Seat, *, verified: bool) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    tls = seat.tls
    if tls is not None and not verified:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        tls.check_hostname = False
        tls.verify_mode = ssl.CERT_NONE
    return await asyncio.open_connection(seat.broker.host, seat.broker.port, ssl=tls)


def _connect_packet(seat: Seat, will: Will | None) -> bytes:
    user, password = seat.broker.username, seat.broker.password
    flags = 0x02 | (0x2C if will else 0) | (0x80 if user else 0) | (0x40 if password else 0)  # will: QoS 1, retained
    fields = [seat.name.encode()]
    fields += [will.topic.encode(), will.payload] if will else []
    fields += [text.encode() for text in (user, password) if text]
    body = _field(b"MQTT") + bytes([4, flags]) + _KEEPALIVE_SECONDS.to_bytes(2, "big") + b"".join(map(_field, fields))
    return bytes([0x10]) + _remaining_length(len(body)) + body


def _field(content: bytes) -> bytes:
    return len(content).to_bytes(2, "big") + content


def _remaining_length(length: int) -> bytes:
    encoded = bytearray()
    while True:
        length, digit = divmod(length, 128)
        encoded.append(digit | (0x80 if length else 0))
        if not length:
            return bytes(encoded)
