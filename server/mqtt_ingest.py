"""The link to the broker; the only file of the server that knows MQTT (3.1.1, QoS 1, clean session; by aiomqtt).

It reconnects for ever, waiting a random time below a growing limit (full jitter; Brooker, "Exponential Backoff And
Jitter", AWS 2015). While it is away, messages given to `send` are dropped: the layer above sends again. A message
handler that raises is logged and the link lives on.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass

import aiomqtt

from server.cancellation import end_tasks
from server.errors import LinkError
from wire_protocol import topics
from wire_protocol.backoff import longest_wait
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.mqtt_log import matters

logger = logging.getLogger(__name__)
library_logger = logging.getLogger(f"{__name__}.aiomqtt")
library_logger.addFilter(matters)

_FIRST_DELAY = 0.5
_LONGEST_DELAY = 30.0
_SENDERS = 16
"""Messages under way at once; below the 20 that brokers commonly allow."""
_PUBLISH_SECONDS = 60.0
"""For one message: a chunk of 124 KB, beside the other senders', at 300 kbit/s."""


@dataclass(frozen=True)
class _Outgoing:
    topic: str
    payload: bytes
    retain: bool
    done: asyncio.Future[bool] | None = None

    def ended(self, taken: bool) -> None:
        """Tell who waits whether the broker has it."""
        if self.done is not None and not self.done.done():
            self.done.set_result(taken)


def back_off(attempt: int, draw: Callable[[float, float], float] = random.uniform) -> float:
    """Seconds to wait after failed attempt number `attempt` (from 0), drawn from 0 to a limit that doubles to 30 s."""
    return draw(0.0, longest_wait(attempt, base=_FIRST_DELAY, ceiling=_LONGEST_DELAY))


class MqttLink:
    """Hands every uplink and state message to `on_message(topic, payload)`; `on_connected()` follows each subscription.

    Both callbacks run in the event loop and must not block. `tls` None means plain TCP.
    """

    def __init__(
        self,
        broker: BrokerUrl,
        tls: ssl.SSLContext | None,
        identifier: str,
        on_connected: Callable[[], None],
        on_message: Callable[[str, bytes], None],
    ) -> None:
        self._broker = broker
        self._tls = tls
        self._identifier = identifier
        self._on_connected = on_connected
        self._on_message = on_message
        self._outgoing: asyncio.Queue[_Outgoing] | None = None
        self._failures = 0

    @property
    def connected(self) -> bool:
        """Whether messages can be sent now."""
        return self._outgoing is not None

    def send(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Queue a message in order; False when it was dropped because the broker is away."""
        if self._outgoing is None:
            return False
        self._outgoing.put_nowait(_Outgoing(topic, payload, retain))
        return True

    async def publish(self, topic: str, payload: bytes) -> bool:
        """Queue a message and wait until the broker has it; False when it was dropped."""
        if self._outgoing is None:
            return False
        message = _Outgoing(topic, payload, False, asyncio.get_running_loop().create_future())
        self._outgoing.put_nowait(message)
        assert message.done is not None
        return await message.done

    async def flush(self, seconds: float) -> bool:
        """Wait until the broker has all that was queued, at most so long; whether it has."""
        if self._outgoing is None:
            return False
        try:
            async with asyncio.timeout(seconds):
                await self._outgoing.join()
        except TimeoutError:
            return False
        return True

    async def run(self) -> None:
        """Keep the link up until cancelled."""
        while True:
            reason = await self._one_connection()
            delay = back_off(self._failures)
            self._failures += 1
            logger.warning("broker %s: %s; next try in %.1f s", self._broker, reason, delay)
            await asyncio.sleep(delay)

    async def _one_connection(self) -> BaseException:
        try:
            async with self._client() as client:
                await _subscribe(client)
                logger.info("connected to the broker %s", self._broker)
                self._failures = 0
                return await self._serve(client)
        except (aiomqtt.MqttError, OSError, UnicodeError) as error:
            return error

    def _client(self) -> aiomqtt.Client:
        client = aiomqtt.Client(
            self._broker.host,
            self._broker.port,
            username=self._broker.username,
            password=self._broker.password,
            identifier=self._identifier,
            clean_session=True,
            tls_context=self._tls,
            logger=library_logger,
        )
        client.pending_calls_threshold = _SENDERS
        return client

    async def _serve(self, client: aiomqtt.Client) -> BaseException:
        outgoing: asyncio.Queue[_Outgoing] = asyncio.Queue()
        self._outgoing = outgoing
        senders = [asyncio.create_task(_send_all(client, outgoing)) for _ in range(_SENDERS)]
        receiver = asyncio.create_task(self._receive_all(client))
        try:
            self._guard(self._on_connected)
            done, _ = await asyncio.wait((receiver, *senders), return_when=asyncio.FIRST_COMPLETED)
            return next(task.exception() for task in done) or LinkError("a task of the link ended")
        finally:
            self._outgoing = None
            await end_tasks((receiver, *senders))
            while not outgoing.empty():
                outgoing.get_nowait().ended(False)

    async def _receive_all(self, client: aiomqtt.Client) -> None:
        async for message in client.messages:
            payload = message.payload
            if isinstance(payload, bytes):
                self._guard(self._on_message, str(message.topic), payload)

    def _guard(self, handler: Callable[..., None], *arguments: object) -> None:
        try:
            handler(*arguments)
        except Exception:
            logger.exception("handling a message failed; going on")


async def _send_all(client: aiomqtt.Client, outgoing: asyncio.Queue[_Outgoing]) -> None:
    while True:
        message = await outgoing.get()
        try:
            await client.publish(message.topic, message.payload, qos=1, retain=message.retain, timeout=_PUBLISH_SECONDS)
            message.ended(True)
        finally:
            message.ended(False)
            outgoing.task_done()


async def _subscribe(client: aiomqtt.Client) -> None:
    granted = await client.subscribe([(topics.UPLINK_FILTER, 1), (topics.STATE_FILTER, 1)])
    if any(getattr(code, "is_failure", False) for code in granted):
        raise aiomqtt.MqttError(
            f"subscription to {topics.UPLINK_FILTER} and {topics.STATE_FILTER} was refused: check its access rules"
        )
