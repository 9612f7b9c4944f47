"""`fisherfleet-edge status`: a device is asked while it takes part in a round at a real broker, and when it is gone."""

import asyncio
import json
import os
import sys

import msgspec
import pytest

from edge_client.__main__ import main
from edge_client.device_status import Report, Status, Waiting, describe
from edge_client.runner import run_device
from edge_client.status_command import make_report
from edge_client.status_socket import answering, ask
from tests.edge_client.scripted_server import DEVICE, make_scene, needs_mosquitto, surroundings
from tests.edge_client.test_command import write_config
from tests.edge_client.test_device_end_to_end import first_round

pytestmark = [needs_mosquitto, pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")]


async def told(state, fits) -> Status:
    """The first status that fits."""
    while True:
        status = await asyncio.to_thread(ask, state)
        if status is not None and fits(status):
            return status
        await asyncio.sleep(0.05)


async def test_a_device_tells_of_its_link_its_round_and_what_came_of_it(tmp_path):
    scene = make_scene(tmp_path)
    async with surroundings(scene, tmp_path, provider="auto") as (server, config, _asked):
        device = asyncio.create_task(run_device(config, answering=answering))
        waits = await told(config.state, lambda status: status.linked)
        assert (waits.device, waits.doing, waits.last) == (DEVICE, "waits for a plan", "")
        assert (waits.said.online, waits.said.examples) == (True, 40)

        await first_round(server, scene)
        ended = await told(config.state, lambda status: status.last)
        assert ended.last == "run digits round 1: its update was counted"
        assert (waits.runtime, ended.runtime) == ("auto", "portable")

        report = await asyncio.to_thread(make_report, config)
        assert (report.waiting, report.answered, report.epsilon) == (Waiting(0, 0), {"digits": 1}, 0.0)
        device.cancel()
        await asyncio.gather(device, return_exceptions=True)
    assert ask(config.state) is None
    assert make_report(config).answered == {"digits": 1}


def make_status() -> Status:
    return msgspec.convert(
        {
            "device": "pi",
            "broker": "mqtt://b:1883",
            "started": 0.0,
            "linked": False,
            "runtime": "auto",
            "trouble": "no route",
            "said": {"type": "state", "online": True},
            "doing": "run r round 3: trains",
            "last": "",
            "written": {"by_kind": {"updates": 1_500_000}, "kernel": 2_000_000},
        },
        Status,
    )


@pytest.mark.parametrize(
    ("report", "lines"),
    [
        (
            Report("pi", None, Waiting(2, 3_000_000), {"r": 7}, None, 10.0),
            ["pi does not run", "run r up to round 7", "2 update(s) to be sent, 3.0 MB", "the ledger is refused"],
        ),
        (
            Report("pi", make_status(), Waiting(0, 0), {}, 1.5, 4.0),
            [
                "no link to mqtt://b:1883: no route",
                "run r round 3: trains",
                "updates 1.50 MB since its start; 2.00 MB in",
            ],
        ),
    ],
)
def test_it_reads_well(report, lines):
    text = describe(report)
    assert [line for line in lines if line not in text] == []


async def test_only_root_and_the_devices_own_user_may_ask(tmp_path):
    if os.getuid() != 0:
        pytest.skip("needs root to be somebody else")
    async with answering(tmp_path, make_status):
        assert await asyncio.to_thread(ask, tmp_path) == make_status()
        os.seteuid(65534)
        try:
            assert await asyncio.to_thread(ask, tmp_path) is None
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_a_device_that_does_not_run_is_exit_status_3(tmp_path, capsys, options):
    assert main(["status", "--config", str(write_config(tmp_path)), *options]) == 3
    out = capsys.readouterr().out
    assert json.loads(out)["running"] is None if options else "pi does not run" in out


def test_a_wrong_file_is_exit_status_2(tmp_path, capsys):
    assert main(["status", "--config", str(tmp_path / "none.toml")]) == 2
    assert "does not exist" in capsys.readouterr().err
