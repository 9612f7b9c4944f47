"""The link against a real broker."""

import asyncio
import logging
import shutil
import socket
import subprocess
import time
from contextlib import asynccontextmanager, contextmanager

import aiomqtt
import pytest

from edge_client import mqtt_link
from edge_client.errors import LinkError
from edge_client.mqtt_link import LinkDown, LinkSettings, LinkUp, MessageArrived, MqttLink
from tests.patience import PATIENCE
from wire_protocol.broker_url import BrokerUrl

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


@pytest.fixture(autouse=True)
def _short_waits(monkeypatch):
    monkeypatch.setattr(mqtt_link, "BACKOFF_CEILING_SECONDS", 0.1)


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker(folder, port):
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.02)
        yield
    finally:
        process.kill()
        process.wait()


@asynccontextmanager
async def linked(port, spoil=None):
    """A link that runs, and the queue of its events; `spoil` may raise in the link's handler."""
    settings = LinkSettings(
        BrokerUrl("127.0.0.1", port), "pi", ("down/pi/#", "plan"), "state/pi", lambda: b"here", b"gone"
    )
    link = MqttLink(settings)
    events: asyncio.Queue = asyncio.Queue()

    def handle(event):
        events.put_nowait(event)
        if spoil is not None:
            spoil(event)

    task = asyncio.create_task(link.run(handle))
    try:
        yield link, events, task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def following(queue):
    return await asyncio.wait_for(queue.get(), PATIENCE)


async def payload_on(client, topic):
    while True:
        message = await asyncio.wait_for(anext(client.messages), PATIENCE)
        if str(message.topic) == topic:
            return message.payload


async def test_messages_come_and_go_and_the_device_says_goodbye(tmp_path, port):
    with broker(tmp_path, port):
        async with aiomqtt.Client("127.0.0.1", port) as other, linked(port) as (link, events, task):
            await other.subscribe([("state/pi", 1), ("up/#", 1)])
            assert await following(events) == LinkUp()
            assert await payload_on(other, "state/pi") == b"here"
            await other.publish("down/pi/need", b"1", qos=1)
            assert await following(events) == MessageArrived("down/pi/need", b"1")
            await link.publish("up/pi/x", b"2")
            assert await payload_on(other, "up/pi/x") == b"2"
            task.cancel()
            assert await payload_on(other, "state/pi") == b"gone"
            assert await following(events) == LinkDown()


async def test_a_link_that_is_taken_away_leaves_its_last_will_and_comes_back(tmp_path, port):
    with broker(tmp_path, port):
        async with aiomqtt.Client("127.0.0.1", port) as other, linked(port) as (_, events, _task):
            assert await following(events) == LinkUp()
            await other.subscribe("state/pi", qos=1)
            assert await payload_on(other, "state/pi") == b"here"
            with pytest.raises(aiomqtt.MqttError):
                async with aiomqtt.Client("127.0.0.1", port, identifier="pi") as thief:
                    await asyncio.wait_for(anext(thief.messages), PATIENCE)
            assert await payload_on(other, "state/pi") == b"gone"
            assert await payload_on(other, "state/pi") == b"here"
            assert [await following(events), await following(events)] == [LinkDown(), LinkUp()]


async def test_a_killed_broker_is_found_again_and_subscriptions_with_it(tmp_path, port):
    async with linked(port) as (link, events, _):
        with broker(tmp_path, port):
            assert await following(events) == LinkUp()
        assert await following(events) == LinkDown()
        with pytest.raises(LinkError, match="down"):
            await link.publish("up/pi/x", b"")
        with broker(tmp_path, port):
            assert await following(events) == LinkUp()
            async with aiomqtt.Client("127.0.0.1", port) as other:
                await other.publish("plan", b"3", qos=1)
            assert await following(events) == MessageArrived("plan", b"3")


async def test_a_handler_that_raises_is_logged_and_the_link_lives_on(tmp_path, port, caplog):
    def spoil(event):
        raise ValueError(f"cannot handle {event}")

    with broker(tmp_path, port), caplog.at_level(logging.ERROR):
        async with aiomqtt.Client("127.0.0.1", port) as other, linked(port, spoil) as (_, events, task):
            assert await following(events) == LinkUp()
            for number in (b"1", b"2"):
                await other.publish("plan", number, qos=1)
                assert await following(events) == MessageArrived("plan", number)
            assert not task.done()
    assert [record.message for record in caplog.records if record.name == mqtt_link.logger.name][:2] == [
        "pi: LinkUp was not handled",
        "pi: MessageArrived was not handled",
    ]


async def test_a_broker_that_is_never_there_is_no_error(port, caplog):
    with caplog.at_level(logging.WARNING):
        async with linked(port) as (_, events, task):
            while len(caplog.records) < 3:
                await asyncio.sleep(0.01)
            assert not task.done()
            assert events.empty()
    assert f"pi: no link to mqtt://127.0.0.1:{port}" in caplog.records[0].message


@pytest.mark.parametrize("answer", ["_on_connect", "_on_subscribe", "_on_publish"])
async def test_a_cancellation_together_with_the_brokers_answer_is_not_lost(tmp_path, port, monkeypatch, answer):
    take_answer = getattr(aiomqtt.Client, answer)
    cancelled = []

    def cancel_and_take_answer(client, *arguments):
        """One step of the event loop later, when the cancellation reaches the task that waits for the answer."""
        if not cancelled:
            cancelled.append(task.cancel())
        asyncio.get_running_loop().call_soon(take_answer, client, *arguments)

    monkeypatch.setattr(mqtt_link, "CANCEL_AGAIN_SECONDS", 0.5)
    with broker(tmp_path, port):
        monkeypatch.setattr(aiomqtt.Client, answer, cancel_and_take_answer)
        async with linked(port) as (_, _events, task):
            await asyncio.wait([task], timeout=PATIENCE)
            assert cancelled
            assert task.cancelled()
            assert "mqtt" not in {other.get_name() for other in asyncio.all_tasks()}


async def test_an_unexpected_error_ends_the_link_loudly(port, monkeypatch):
    async def broken(*_arguments):
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(MqttLink, "_session", broken)
    async with linked(port) as (_, _events, task):
        with pytest.raises(RuntimeError, match="a mistake of ours"):
            await asyncio.wait_for(asyncio.shield(task), PATIENCE)


async def test_an_answer_to_a_subscription_that_was_cancelled_is_no_error(tmp_path, port, caplog):
    with broker(tmp_path, port):
        trouble = mqtt_link._SocketTrouble()
        async with asyncio.timeout(PATIENCE), aiomqtt.Client("127.0.0.1", port, logger=trouble.logger) as client:
            cancelled = asyncio.create_task(client.subscribe("cancelled"))
            await asyncio.sleep(0)
            cancelled.cancel()
            await client.subscribe("answered after it")
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
