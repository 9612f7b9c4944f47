"""A device's link to the broker: the only file that knows MQTT.

MQTT 3.1.1, QoS 1, clean session. The link says that the device is here (retained), lets the broker say when it is gone
(last will), and connects again for ever. It promises nothing about delivery: receipts do that.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import count

import aiomqtt

from edge_client.errors import LinkError
from edge_client.log_limit import FAILURES_AN_HOUR, SECONDS_AN_HOUR, LogLimit
from edge_client.plan_clock import was_set
from edge_client.tls_words import explain
from wire_protocol.backoff import full_jitter, longest_wait
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.mqtt_log import matters

logger = logging.getLogger(__name__)

QOS = 1
KEEPALIVE_SECONDS = 30
CONNECT_SECONDS = 10.0
PUBLISH_SECONDS = 60.0
"""A chunk of 124 KB at 20 kbit/s."""
GOODBYE_SECONDS = 2.0
CANCEL_AGAIN_SECONDS = 3.0
"""More than a goodbye takes, which a second cancellation would cut short."""
BIRTH_AGAIN_SECONDS, BIRTH_AGAIN_CEILING_SECONDS = 5.0, 300.0
"""A broker may drop a birth message that it has acknowledged."""
BACKOFF_BASE_SECONDS = 1.0
BACKOFF_CEILING_SECONDS = 60.0
CLOCK_LOOK_SECONDS = 1.0
STABLE_SECONDS = 30.0
"""A session that lived this long starts the back-off anew."""
_SUBACK_FAILURE = 128


@dataclass(frozen=True)
class LinkSettings:
    """Where to connect and as whom; `tls` None means plain TCP.

    `will`, and what `birth` gives each time that it is published, are retained on `state_topic`.
    """

    broker: BrokerUrl
    client_id: str
    filters: tuple[str, ...]
    state_topic: str
    birth: Callable[[], bytes]
    will: bytes
    tls: ssl.SSLContext | None = None


@dataclass(frozen=True)
class LinkUp:
    """Connected and subscribed."""


@dataclass(frozen=True)
class LinkDown:
    """Not connected any more."""


@dataclass(frozen=True)
class MessageArrived:
    """A message from the broker; `retained` says that it kept the message for whoever subscribes."""

    topic: str
    payload: bytes
    retained: bool = False


LinkEvent = LinkUp | LinkDown | MessageArrived
Handle = Callable[[LinkEvent], None]


class _SocketTrouble(logging.Filter):
    """Takes from the MQTT client's log the socket errors that it tells nobody else."""

    def __init__(self) -> None:
        super().__init__()
        self.logger = logging.Logger(f"{logger.name}.paho")
        self.logger.parent = logger
        self.logger.addFilter(matters)
        self.logger.addFilter(self)
        self._last: OSError | None = None

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep a socket error for `take`, and every other line in the log."""
        arguments = record.args if isinstance(record.args, tuple) else ()
        error = next((argument for argument in arguments if isinstance(argument, OSError)), None)
        if error is None:
            return True
        self._last = error
        return False

    def take(self) -> OSError | None:
        """The last socket error, once."""
        last, self._last = self._last, None
        return last


class MqttLink:
    """Keeps one device connected; `run` and `publish` belong to one event loop."""

    def __init__(self, settings: LinkSettings, wall: Callable[[], float] = time.time) -> None:
        self.settings, self._wall = settings, wall
        self._limit = LogLimit(logger, logging.WARNING, burst=FAILURES_AN_HOUR, seconds=SECONDS_AN_HOUR)
        self._client: aiomqtt.Client | None = None
        self._trouble = _SocketTrouble()
        self.why_down = ""
        """Why there was no link the last time that there was none."""

    async def run(self, handle: Handle) -> None:
        """Stay connected until cancelled, then say goodbye. What `handle` raises is logged and goes no further.

        Up to Python 3.11 `asyncio.wait_for`, which the MQTT client uses, loses a cancellation that arrives together
        with its result (bpo-37658), so it is repeated until the link has ended. A second one skips the goodbye.
        """
        staying = asyncio.create_task(self._stay_connected(handle), name="mqtt")
        try:
            await asyncio.wait((staying,))
        finally:
            while not staying.done():
                staying.cancel()
                with suppress(asyncio.CancelledError):
                    await asyncio.wait((staying,), timeout=CANCEL_AGAIN_SECONDS)
        staying.result()

    async def _stay_connected(self, handle: Handle) -> None:
        failures = 0
        clock = asyncio.get_running_loop()
        while True:
            began = clock.time()
            try:
                await self._session(handle)
            except (aiomqtt.MqttError, OSError, UnicodeError) as error:
                failures = 0 if clock.time() - began > STABLE_SECONDS else failures
                delay = full_jitter(
                    failures, random.random(), base=BACKOFF_BASE_SECONDS, ceiling=BACKOFF_CEILING_SECONDS
                )
                name, broker, self.why_down = self.settings.client_id, self.settings.broker, self._why(error)
                text = "%s: no link to %s (%s); trying again in %.1f s"
                self._limit.log(clock.time(), text, name, broker, self.why_down, delay)
                failures = 0 if await self._clock_set_within(delay) else failures + 1

    async def _clock_set_within(self, delay: float) -> bool:
        """Wait so long, or until the device's clock is set, before which no certificate can be judged."""
        clock = asyncio.get_running_loop()
        until = clock.time() + delay
        awaited = self.settings.tls is not None and not was_set(self._wall())
        while (left := until - clock.time()) > 0:
            await asyncio.sleep(min(left, CLOCK_LOOK_SECONDS) if awaited else left)
            if awaited and was_set(self._wall()):
                return True
        return False

    async def try_once(self) -> None:
        """Connect, subscribe and leave, publishing nothing; raises `LinkError` that says what is refused."""
        try:
            async with self._new_client() as client:
                refused = await self._refused(client)
        except (aiomqtt.MqttError, OSError, UnicodeError) as error:
            raise LinkError(self._why(error)) from error
        if refused:
            raise LinkError(f"the broker refuses a subscription to {', '.join(refused)}")

    @property
    def up(self) -> bool:
        """Whether the device is connected."""
        return self._client is not None

    async def publish_birth(self) -> None:
        """Say again that the device is here; raises `LinkError`."""
        if self._client is not None:
            await self.publish(self.settings.state_topic, self.settings.birth(), retain=True)

    async def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        """Hand a message to the broker and wait for its acknowledgement; raises `LinkError`."""
        if self._client is None:
            raise LinkError("the link to the broker is down")
        try:
            await self._client.publish(topic, payload, qos=QOS, retain=retain, timeout=PUBLISH_SECONDS)
        except (aiomqtt.MqttError, ValueError) as error:
            raise LinkError(f"the broker did not take a message: {error}") from error

    async def _session(self, handle: Handle) -> None:
        settings = self.settings
        async with self._new_client() as client:
            for name in await self._refused(client):
                logger.error("%s: the broker refuses a subscription to %s", settings.client_id, name)
            await client.publish(settings.state_topic, settings.birth(), qos=QOS, retain=True)
            logger.info("%s: connected to %s", settings.client_id, settings.broker)
            self._client = client
            self._deliver(handle, LinkUp())
            reminding = asyncio.create_task(self._repeat_birth(client))
            try:
                async for message in client.messages:
                    self._deliver(handle, _arrived(message))
            except asyncio.CancelledError:
                reminding.cancel()
                await self._say_goodbye(client)
                raise
            finally:
                self._client = None
                reminding.cancel()
                self._deliver(handle, LinkDown())

    async def _repeat_birth(self, client: aiomqtt.Client) -> None:
        settings = self.settings
        with suppress(aiomqtt.MqttError):
            for attempt in count():
                wait = longest_wait(attempt, base=BIRTH_AGAIN_SECONDS, ceiling=BIRTH_AGAIN_CEILING_SECONDS)
                await asyncio.sleep(wait * random.uniform(0.75, 1.25))
                await client.publish(settings.state_topic, settings.birth(), qos=QOS, retain=True)

    def _why(self, error: Exception) -> str:
        """A broker that refuses a certificate says so to the socket, while the MQTT client only waits in vain."""
        socket_error = self._trouble.take()
        cause = socket_error if isinstance(socket_error, ssl.SSLError) else error
        return explain(cause, "the broker", self._wall())

    def _new_client(self) -> aiomqtt.Client:
        settings = self.settings
        return aiomqtt.Client(
            settings.broker.host,
            settings.broker.port,
            username=settings.broker.username,
            password=settings.broker.password,
            identifier=settings.client_id,
            will=aiomqtt.Will(settings.state_topic, settings.will, qos=QOS, retain=True),
            clean_session=True,
            timeout=CONNECT_SECONDS,
            keepalive=KEEPALIVE_SECONDS,
            tls_context=settings.tls,
            logger=self._trouble.logger,
        )

    async def _refused(self, client: aiomqtt.Client) -> list[str]:
        """Subscribe, and name what the broker refuses."""
        granted = await client.subscribe([(name, QOS) for name in self.settings.filters])
        codes = [code if isinstance(code, int) else code.value for code in granted]
        return [name for name, code in zip(self.settings.filters, codes, strict=True) if code >= _SUBACK_FAILURE]

    async def _say_goodbye(self, client: aiomqtt.Client) -> None:
        settings = self.settings
        with suppress(aiomqtt.MqttError):
            await client.publish(settings.state_topic, settings.will, qos=QOS, retain=True, timeout=GOODBYE_SECONDS)

    def _deliver(self, handle: Handle, event: LinkEvent) -> None:
        try:
            handle(event)
        except Exception:
            logger.exception("%s: %s was not handled", self.settings.client_id, type(event).__name__)


def _arrived(message: aiomqtt.Message) -> MessageArrived:
    return MessageArrived(str(message.topic), bytes(message.payload), bool(message.retain))
