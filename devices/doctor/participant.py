"""A client that notes what arrives, so that a test can say what did and what did not.

Nothing is proved by waiting: a message that did not come is missed when one sent after it, on the same way, has come.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiomqtt

from devices.doctor.seats import Seat

logger = logging.getLogger(__name__)

QOS = 1
_SUBACK_FAILURE = 128
_UNACKNOWLEDGED = 100


@dataclass(frozen=True)
class Arrived:
    """A message that the broker delivered."""

    topic: str
    payload: bytes
    retained: bool


@dataclass
class Participant:
    """A connection; what it does raises `aiomqtt.MqttError` where the broker ends it."""

    seat: Seat
    client: aiomqtt.Client
    seconds: float
    arrived: asyncio.Queue[Arrived] = field(default_factory=asyncio.Queue)

    async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish and wait for the acknowledgement."""
        await self.client.publish(topic, payload, qos=QOS, retain=retain, timeout=self.seconds)

    async def subscribe(self, *filters: str) -> bool:
        """Subscribe; False where the broker refuses one."""
        granted = await self.client.subscribe([(name, QOS) for name in filters], timeout=self.seconds)
        codes = [code if isinstance(code, int) else code.value for code in granted]
        return all(code < _SUBACK_FAILURE for code in codes)

    async def until(self, payload: bytes) -> list[Arrived] | None:
        """What arrived before a message with this payload; None where that does not come."""
        before: list[Arrived] = []
        try:
            async with asyncio.timeout(self.seconds):
                while (message := await self.arrived.get()).payload != payload:
                    before.append(message)
        except TimeoutError:
            return None
        return before

    async def quiet(self, seconds: float) -> list[Arrived]:
        """What arrives until nothing has for so long."""
        messages = []
        with suppress(TimeoutError):
            while True:
                messages.append(await asyncio.wait_for(self.arrived.get(), seconds))
        return messages


@asynccontextmanager
async def participant(seat: Seat, seconds: float, *, clean: bool = True) -> AsyncIterator[Participant]:
    """Connect over MQTT 3.1.1, as devices and the server do; `clean` False asks for a session that outlives this."""
    client = aiomqtt.Client(
        seat.broker.host,
        seat.broker.port,
        username=seat.broker.username,
        password=seat.broker.password,
        identifier=seat.name,
        clean_session=clean,
        timeout=seconds,
        tls_context=seat.tls,
        max_inflight_messages=_UNACKNOWLEDGED,
        logger=logger.getChild("paho"),
    )
    client.pending_calls_threshold = 10 * _UNACKNOWLEDGED
    async with client:
        someone = Participant(seat, client, seconds)
        collecting = asyncio.create_task(_collect(someone))
        try:
            yield someone
        finally:
            collecting.cancel()
            with suppress(asyncio.CancelledError, aiomqtt.MqttError):
                await collecting


async def _collect(someone: Participant) -> None:
    async for message in someone.client.messages:
        payload = message.payload if isinstance(message.payload, bytes) else b""
        someone.arrived.put_nowait(Arrived(str(message.topic), payload, bool(message.retain)))
