import asyncio
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import aiomqtt
import pytest

from devices.emulation import broker, child_process
from devices.emulation.broker import embedded_broker, find_mosquitto
from devices.errors import BrokerError

PROGRAMS = [
    pytest.param("mosquitto", marks=pytest.mark.skipif(not find_mosquitto(), reason="needs mosquitto")),
    "amqtt",
]
WAIT_SECONDS = 30

HOLD_A_BROKER = """
import asyncio, pathlib, sys
from devices.emulation.broker import embedded_broker

async def hold():
    async with embedded_broker(pathlib.Path(sys.argv[1]), sys.argv[2]) as url:
        sys.stdout.write(f"{url.port}\\n")
        sys.stdout.flush()
        await asyncio.Event().wait()

asyncio.run(hold())
"""


def accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def refuses_soon(port: int) -> bool:
    deadline = time.monotonic() + WAIT_SECONDS
    while accepts(port):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def install(folder: Path, script: str) -> Path:
    """Put a program named mosquitto first on a PATH of its own."""
    program = folder / "mosquitto"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return folder


async def first_message(client: aiomqtt.Client) -> aiomqtt.Message:
    return await asyncio.wait_for(anext(aiter(client.messages)), WAIT_SECONDS)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_messages_of_a_megabyte_pass_both_ways_at_qos_1(tmp_path, program):
    payload = bytes(range(256)) * 4096
    async with (
        embedded_broker(tmp_path, program) as url,
        aiomqtt.Client(url.host, url.port, identifier="server") as server,
        aiomqtt.Client(url.host, url.port, identifier="device") as device,
    ):
        await server.subscribe("up/#", qos=1)
        await device.subscribe("down/#", qos=1)
        await device.publish("up/device", payload, qos=1)
        received = await first_message(server)
        await server.publish("down/device", payload[::-1], qos=1)
        answered = await first_message(device)
    assert (received.topic.value, received.qos, received.payload) == ("up/device", 1, payload)
    assert (answered.topic.value, answered.qos, answered.payload) == ("down/device", 1, payload[::-1])


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_retained_message_waits_for_who_comes_later(tmp_path, program):
    async with embedded_broker(tmp_path, program) as url:
        async with aiomqtt.Client(url.host, url.port) as server:
            await server.publish("cast/plan", b"plan", qos=1, retain=True)
        async with aiomqtt.Client(url.host, url.port) as device:
            await device.subscribe("cast/+", qos=1)
            message = await first_message(device)
    assert (message.payload, message.retain) == (b"plan", True)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_the_port_is_free_when_the_context_ends(tmp_path, program):
    async with embedded_broker(tmp_path / "new" / "folder", program) as url:
        assert accepts(url.port)
        assert (url.host, url.tls, url.username) == ("127.0.0.1", False, None)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((url.host, url.port))
        listener.listen()
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["broker.log"]


@pytest.mark.parametrize("program", PROGRAMS)
async def test_cancelling_the_holder_ends_the_broker(tmp_path, program):
    started: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with embedded_broker(tmp_path, program) as url:
            started.set_result(url.port)
            await asyncio.Event().wait()

    holder = asyncio.create_task(hold())
    port = await asyncio.wait_for(started, WAIT_SECONDS)
    holder.cancel()
    with pytest.raises(asyncio.CancelledError):
        await holder
    assert not accepts(port)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_killed_parent_leaves_no_broker(tmp_path, program):
    command = [sys.executable, "-c", HOLD_A_BROKER, str(tmp_path), program]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        port = int(holder.stdout.readline())
        assert accepts(port)
        holder.send_signal(signal.SIGKILL)
    assert refuses_soon(port)


@pytest.mark.parametrize("program", PROGRAMS)
async def test_two_brokers_are_apart(tmp_path, program):
    async with embedded_broker(tmp_path / "a", program) as one, embedded_broker(tmp_path / "b", program) as other:
        assert one.port != other.port
        async with aiomqtt.Client(one.host, one.port) as client:
            await client.publish("cast/plan", b"one", qos=1, retain=True)
        async with aiomqtt.Client(other.host, other.port) as client:
            await client.subscribe("cast/plan", qos=1)
            await client.publish("cast/plan", b"other", qos=1)
            assert (await first_message(client)).payload == b"other"


@pytest.mark.parametrize("program", PROGRAMS)
async def test_a_port_that_another_program_took_is_given_up(tmp_path, monkeypatch, program):
    monkeypatch.setattr(broker, "_PROBE_SECONDS", 0.3)
    free_port = broker._free_port
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        taken = silent.getsockname()[1]
        ports = iter([taken])
        monkeypatch.setattr(broker, "_free_port", lambda: next(ports, None) or free_port())
        async with embedded_broker(tmp_path, program) as url:
            assert url.port != taken
            async with aiomqtt.Client(url.host, url.port) as client:
                await client.publish("state/device", b"here", qos=1)


async def test_a_broker_that_does_not_start_is_an_error_with_its_log(tmp_path, monkeypatch):
    folder = install(tmp_path, "echo cannot load libwebsockets.so; exit 3")
    monkeypatch.setenv("PATH", str(folder))
    with pytest.raises(BrokerError, match=r"mosquitto ended 4 times .*cannot load libwebsockets\.so") as raised:
        async with embedded_broker(tmp_path / "run"):
            pass
    assert "\n" not in str(raised.value)


async def test_a_broker_that_never_answers_is_an_error_and_is_ended(tmp_path, monkeypatch):
    folder = install(tmp_path, f'trap "" TERM; echo $$ > {tmp_path}/pid; echo stuck; while :; do /bin/sleep 0.05; done')
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(broker, "_START_SECONDS", 1.0)
    monkeypatch.setattr(child_process, "_STOP_SECONDS", 0.2)
    with pytest.raises(BrokerError, match="mosquitto did not answer within 1 s: stuck"):
        async with embedded_broker(tmp_path / "run"):
            pass
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


async def test_no_broker_at_all_is_an_error_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(broker, "find_mosquitto", lambda: None)
    monkeypatch.setitem(sys.modules, "amqtt", None)
    for program in (None, "mosquitto"):
        with pytest.raises(BrokerError, match="apt install mosquitto"):
            async with embedded_broker(tmp_path, program):
                pass
