import asyncio
import logging
from typing import Any

import aiomqtt
import pytest

from server.cancellation import end_tasks
from server.mqtt_ingest import MqttLink, back_off, library_logger
from tests.patience import PATIENCE
from wire_protocol import topics
from wire_protocol.broker_url import parse_broker_url


@pytest.mark.parametrize(
    ("attempt", "limit"), [(0, 0.5), (1, 1.0), (2, 2.0), (5, 16.0), (6, 30.0), (10, 30.0), (10**9, 30.0)]
)
def test_back_off_draws_from_zero_to_a_limit_that_doubles(attempt: int, limit: float) -> None:
    drawn = []
    back_off(attempt, lambda low, high: drawn.append((low, high)) or low)
    assert drawn == [(0.0, limit)]


async def test_messages_are_dropped_while_the_broker_is_away() -> None:
    link = MqttLink(parse_broker_url("mqtt://host", {}), None, "id", lambda: None, lambda *_: None)
    assert not link.connected
    assert link.send("topic", b"payload") is False
    assert await link.flush(0.01) is False


async def test_a_handler_that_raises_is_logged_and_the_link_lives_on(
    broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    connected, handled = asyncio.Event(), asyncio.Queue()

    def handle(topic: str, payload: bytes) -> None:
        handled.put_nowait((topic, payload))
        raise ValueError("cannot be handled")

    link = MqttLink(broker.url, None, "id", connected.set, handle)
    task = asyncio.create_task(link.run())
    async with asyncio.timeout(PATIENCE):
        await connected.wait()
        async with aiomqtt.Client("127.0.0.1", broker.port) as other:
            for payload in (b"1", b"2"):
                await other.publish(topics.state("a"), payload, qos=1)
                assert await handled.get() == (topics.state("a"), payload)
    assert not task.done()
    await end_tasks([task])
    errors = [record.message for record in caplog.records if record.levelno >= logging.ERROR]
    assert errors == ["handling a message failed; going on"] * 2


async def test_an_answer_to_a_subscription_that_a_stop_has_cancelled_is_no_error(
    broker: Any, caplog: pytest.LogCaptureFixture
) -> None:
    async with asyncio.timeout(PATIENCE), aiomqtt.Client("127.0.0.1", broker.port, logger=library_logger) as client:
        cancelled = asyncio.create_task(client.subscribe("cancelled"))
        await asyncio.sleep(0)
        await end_tasks([cancelled])
        await client.subscribe("answered after it")
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
