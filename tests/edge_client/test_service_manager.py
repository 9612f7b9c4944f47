"""What systemd is told, on a socket like its own."""

import asyncio
import os
import socket

import pytest

from edge_client.progress import STUCK_SECONDS, Progress
from edge_client.service_manager import READY, ServiceManager


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path):
    address = str(tmp_path / "notify") if request.param == "path" else f"\0fisherfleet-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as heard:
        heard.bind(address)
        heard.settimeout(10)
        yield heard, address.replace("\0", "@")


def test_who_was_not_started_by_systemd_tells_nobody():
    manager = ServiceManager({})
    manager.tell(READY)
    assert manager.watchdog_seconds is None


def test_a_socket_that_is_gone_is_no_error(tmp_path):
    ServiceManager({"NOTIFY_SOCKET": str(tmp_path / "gone")}).tell(READY)


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "120000000"}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": str(os.getpid())}, 120.0),
        ({"WATCHDOG_USEC": "120000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_that_of_this_process(environment, seconds):
    assert ServiceManager(environment).watchdog_seconds == seconds


async def test_a_device_is_alive_as_long_as_its_work_moves_and_says_what_it_does_when_that_changes(systemd):
    heard, address = systemd
    words, now = ["waits"], [0.0]
    progress = Progress(lambda: now[0])
    manager = ServiceManager({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "2000"})
    manager.tell(READY)
    assert heard.recv(99) == b"READY=1"
    with progress.working():
        attending = asyncio.create_task(manager.attend(lambda: words[0], lambda: not progress.stuck))
        receive = asyncio.get_running_loop().run_in_executor
        said = [await receive(None, heard.recv, 99) for _ in range(4)]
        assert said == [b"STATUS=waits", b"WATCHDOG=1", b"WATCHDOG=1", b"WATCHDOG=1"]
        now[0], words[0] = STUCK_SECONDS + 1, "trains"
        while (said := await receive(None, heard.recv, 99)) == b"WATCHDOG=1":
            pass
        assert said == b"STATUS=trains"
        words[0] = "still trains"
        assert await receive(None, heard.recv, 99) == b"STATUS=still trains"
        progress.moved()
        assert await receive(None, heard.recv, 99) == b"WATCHDOG=1"
    now[0] += STUCK_SECONDS + 1
    assert not progress.stuck
    attending.cancel()
