"""A whole device behind a real broker: what it tells of its ledger, what it hears of it, and what a kill costs."""

import asyncio
import json
import logging
import shutil
import sys
from dataclasses import replace

import msgspec

from edge_client.__main__ import main
from edge_client.privacy.cap import Cap
from edge_client.privacy.ledger import read_ledger
from edge_client.privacy.ledger_files import LEDGER_FILE
from tests.edge_client.scripted_server import (
    DEVICE,
    PATIENCE,
    RUN,
    make_scene,
    needs_mosquitto,
    running,
    surroundings,
)
from wire_protocol import messages
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy

pytestmark = needs_mosquitto
RECORD = RecordPrivacy(clip_norm=0.5, noise_multiplier=40.0, sampling_rate=0.25)
SMALL = (32, 16)


def resync_plan(scene, number, **changes):
    plan = scene.plan(number, scene.model, "float32")
    changes = {"privacy": RECORD, "selection": "random", "local_steps": 1, "resync_round": number, **changes}
    return msgspec.structs.replace(plan, **changes)


async def declined(server, scene, number) -> str:
    """What the device says in place of an update, with a receipt."""
    await server.publish_plan(resync_plan(scene, number))
    said, digest = await server.payload(number)
    await server.send_receipt(number, digest, accepted=False)
    return messages.decode(said, messages.Decline).cause


async def counted(server, scene, number, seen=None, **changes) -> messages.Update:
    await server.publish_plan(resync_plan(scene, number, **changes))
    update, digest = await server.update(number)
    await server.send_receipt(number, digest, ledger=seen)
    return update


async def settled(config) -> None:
    async def poll() -> None:
        while any((config.state / "outbox").iterdir()):
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), PATIENCE)


def lines_charged(config) -> int:
    path = config.state / LEDGER_FILE
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def write_config(tmp_path, config) -> str:
    path = tmp_path / "device.toml"
    table = {
        "device": DEVICE,
        "broker": str(config.broker),
        "server": config.server,
        "data": "examples.npz",
        "run": RUN,
    }
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())
    path.write_text(f"{lines}[privacy]\nepsilon = 1000\n")
    return str(path)


async def test_updates_tell_how_far_the_ledger_came_by_their_charge(tmp_path):
    scene = make_scene(tmp_path, SMALL)
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=1000.0)) as (server, config, _), running(config):
        first = (await counted(server, scene, 1)).ledger
        assert first == read_ledger(config.state).mark
        open_round = await counted(server, scene, 2, privacy=None)
        scored = RecordPrivacy(0.5, 40.0, 0.25, score_noise_multiplier=30.0)
        second = (await counted(server, scene, 3, seen=first, privacy=scored, selection="fisher")).ledger
        third = (await counted(server, scene, 4, seen=second, privacy=DevicePrivacy(0.5, 40.0))).ledger
    assert open_round.ledger is None
    assert [one.count for one in (first, second, third)] == [1, 3, 4]
    book = read_ledger(config.state)
    assert [book.head_at(one.count) for one in (first, second)] == [first.head, second.head]
    assert third == book.mark


async def test_the_second_of_two_disks_copied_from_one_device_takes_no_part_until_its_owner_accepts_it(
    tmp_path, caplog, capsys
):
    scene = make_scene(tmp_path, SMALL)
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=1000.0)) as (server, config, _):
        path = write_config(tmp_path, config)
        other = replace(config, state=tmp_path / "other")
        async with running(config):
            await counted(server, scene, 1)
            await settled(config)
        shutil.copytree(config.state, other.state)
        async with running(other):
            seen = (await counted(server, scene, 2)).ledger
        async with running(config):
            said, digest = await server.update(2)
            assert said.ledger.count == seen.count == 2
            await server.send_receipt(2, digest, accepted=False, ledger=seen)
            assert await declined(server, scene, 3) == "budget-spent"
            assert await declined(server, scene, 4) == "budget-spent"
        async with running(config):
            assert await declined(server, scene, 5) == "budget-spent"
            assert (await counted(server, scene, 6, privacy=None)).ledger is None
            await settled(config)
        errors = [one.getMessage() for one in caplog.records if one.levelno >= logging.ERROR]
        assert main(["privacy", "reset", "--config", path, "--accept-lost-charges"]) == 0
        async with running(config):
            again = (await counted(server, scene, 7, seen=seen)).ledger
            assert (await counted(server, scene, 8, seen=again)).ledger.count == again.count + 1
    assert len(errors) == 1
    assert "the server has seen another charge 2 than is here: the device's state was copied" in errors[0]
    assert "fisherfleet-edge privacy reset" in errors[0]
    assert "2 of 2 charges are still charged" in capsys.readouterr().out
    assert again.count == 4


async def test_a_device_that_lost_its_disk_stops_at_the_first_receipt(tmp_path, caplog):
    scene = make_scene(tmp_path, SMALL)
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=1000.0)) as (server, config, _), running(config):
        await counted(server, scene, 1, seen=LedgerMark(57, bytes(32)))
        assert await declined(server, scene, 2) == "budget-spent"
    assert "the server has seen 57 charges and 1 are here" in caplog.text
    assert lines_charged(config) == 1


async def test_a_round_begun_again_after_a_kill_is_charged_again_unless_its_update_waits(tmp_path):
    scene = make_scene(tmp_path, SMALL)
    async with surroundings(scene, tmp_path) as (server, config, _):
        command = (sys.executable, "-m", "edge_client", "--config", write_config(tmp_path, config))

        async def start():
            return await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)

        async def charged(count) -> None:
            while lines_charged(config) < count:
                await asyncio.sleep(0.005)

        await server.publish_plan(resync_plan(scene, 1, local_steps=100_000))
        first = await start()
        await asyncio.wait_for(charged(1), PATIENCE)
        first.kill()
        await first.wait()
        assert not (config.state / "outbox").exists()
        await server.publish_plan(resync_plan(scene, 1))
        second = await start()
        _, manifest = await server.manifest(1)
        second.kill()
        await second.wait()
        assert lines_charged(config) == 2
        third = await start()
        update, digest = await server.update(1)
        await server.send_receipt(1, digest)
        await settled(config)
        third.kill()
        await third.wait()
    assert digest == manifest.sha256
    assert update.ledger == read_ledger(config.state).mark
    assert update.ledger.count == 2
