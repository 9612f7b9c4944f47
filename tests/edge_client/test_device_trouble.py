"""A whole device against forged messages, lost receipts, wrong clocks and disks without room; a real broker."""

import asyncio
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_client import runner
from tests.edge_client.scripted_server import (
    DEVICE,
    PATIENCE,
    RUN,
    broker,
    make_scene,
    needs_mosquitto,
    running,
    scripted_server,
    surroundings,
    web_server,
)
from tests.fleet_keys import FLEET, operator, signed, signed_for, signed_plan
from wire_protocol import messages, topics
from wire_protocol.envelope import Context
from wire_protocol.messages import Receipt, encode

pytestmark = needs_mosquitto

DAY = 86_400.0
STRANGER = operator("stranger")


@pytest.fixture
def scene(tmp_path):
    return make_scene(tmp_path, hidden=(32, 16))


async def test_only_the_operators_receipt_for_its_hash_clears_the_outbox(tmp_path, scene, caplog):
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        _, digest = await server.update(1)
        right = Receipt(run=RUN, round=1, sha256=digest, accepted=True)
        forgeries = [
            encode(right),
            signed(right, Context("receipt", FLEET, device=DEVICE), STRANGER),
            signed(right, Context("receipt", "another-fleet", device=DEVICE)),
            signed_for("receipt", right, "another-device"),
            signed_for("need", right, DEVICE),
            signed_for("receipt", replace(right, sha256=bytes(32)), DEVICE),
            signed_for("receipt", replace(right, round=2), DEVICE),
            signed_for("receipt", replace(right, run="other"), DEVICE),
            b"",
        ]
        for forged in forgeries * 3:
            await server.publish(topics.receipt(DEVICE), forged)
        _, again = await server.manifest(1)
        assert again.sha256 == digest
        assert len(list((tmp_path / "state" / "outbox").iterdir())) == 1
        await server.send_receipt(1, digest)
        while any((tmp_path / "state" / "outbox").iterdir()):
            await asyncio.sleep(0.01)
    ignored = [record for record in caplog.records if "ignored a message on" in record.message]
    assert 1 <= len(ignored) <= 5


async def test_forged_plans_are_not_trained_and_the_right_one_is(tmp_path, scene, caplog):
    plan = scene.plan(1, scene.model, "float32")
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        forged = replace(plan, round=900, resync_round=900)
        for payload in (
            encode(forged),
            signed(forged, Context("plan", FLEET, RUN), STRANGER),
            signed(forged, Context("plan", "another-fleet", RUN)),
            signed(forged, Context("plan", FLEET, "another-run")),
            signed(replace(forged, run="another-run"), Context("plan", FLEET, RUN)),
        ):
            await server.publish(topics.plan(RUN), payload, retain=True)
        await server.publish_plan(plan)
        part, _ = await server.manifest()
        assert part.round == 1
        update, _ = await server.update(1)
        assert update.round == 1
    assert sum("ignored a message on" in record.message for record in caplog.records) == 5


async def test_a_lost_receipt_is_asked_for_again(tmp_path, scene):
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        _, digest = await server.update(1)
        assert (await server.manifest(1))[1].sha256 == digest
        await server.send_receipt(1, digest)
        while any((tmp_path / "state" / "outbox").iterdir()):
            await asyncio.sleep(0.01)


async def test_a_plan_or_receipt_repeated_for_ever_trains_and_sends_nothing_again(tmp_path, scene):
    plan = scene.plan(1, scene.model, "float32")
    async with surroundings(scene, tmp_path) as (server, config, _):
        for _ in range(2):
            async with running(config):
                while not (await server.state()).online:
                    pass
                if not (tmp_path / "state" / "memory").exists():
                    await server.publish_plan(plan)
                    _, digest = await server.update(1)
                for _ in range(3):
                    await server.send_receipt(1, digest)
                    await server.publish(topics.plan(RUN), signed_plan(plan))
                while any((tmp_path / "state" / "outbox").iterdir()):
                    await asyncio.sleep(0.01)
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(server.manifest(), 1.0)


@pytest.mark.parametrize("shift", [DAY, -DAY, None])
async def test_a_clock_that_is_wrong_by_a_day_or_was_never_set_loses_nothing(tmp_path, scene, monkeypatch, shift):
    class WrongClock:
        @staticmethod
        def time() -> float:
            return 1000.0 if shift is None else time.time() + shift

    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        monkeypatch.setattr(runner, "time", WrongClock)
        _, digest = await server.update(1)
        await server.publish_plan(scene.plan(2, scene.model, "float32"))
        _, second = await server.update(2)
        await server.send_receipt(1, digest)
        await server.send_receipt(2, second)
        while any((tmp_path / "state" / "outbox").iterdir()):
            await asyncio.sleep(0.01)


async def test_an_old_plan_that_the_broker_kept_is_ignored_and_said_so(tmp_path, scene, caplog):
    caplog.set_level(logging.INFO)
    async with surroundings(scene, tmp_path) as (server, config, asked):
        old = replace(scene.plan(1, scene.model, "float32"), deadline=time.time() - DAY)
        await server.publish_plan(old)
        async with running(config):
            while "plan ignored: its deadline was 86400 s ago by this device's clock" not in caplog.text:
                await asyncio.sleep(0.01)
    assert not asked


def can_mount() -> bool:
    """Whether this user can make a small disk of its own."""
    if shutil.which("unshare") is None or shutil.which("nsenter") is None:
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


class SmallDisk:
    """A device's process that sees a disk of a megabyte as its state folder, which only it and its like can see."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.log = folder / "device.log"
        run = (
            f'mount -t tmpfs -o size=1m none "{self.state}" && exec "$0" -m edge_client --config "{folder}/device.toml"'
        )
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(["unshare", "-rm", "sh", "-c", run, sys.executable], stderr=log)

    async def says(self, words: str) -> None:
        async def wait() -> None:
            while words not in self.log.read_text():
                assert self.process.poll() is None, self.log.read_text()
                await asyncio.sleep(0.01)

        await asyncio.wait_for(wait(), PATIENCE)

    def inside(self, script: str) -> None:
        """Run a script where the small disk is seen."""
        enter = ["nsenter", "-t", str(self.process.pid), "-U", "-m", "--preserve-credentials"]
        subprocess.run([*enter, "sh", "-c", f'cd "{self.state}" && {script}'], check=True, capture_output=True)

    def end(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@pytest.mark.skipif(not can_mount(), reason="no disk can be mounted here")
@pytest.mark.parametrize(
    ("spoil", "mend", "words"),
    [
        ("head -c 2000000 /dev/zero > ballast || true", "rm ballast", ": the disk is full"),
        ("mount -o remount,ro .", "mount -o remount,rw,size=1m .", ": the disk is read-only"),
    ],
)
async def test_a_disk_without_room_is_said_and_waited_for(tmp_path, scene, spoil, mend, words):
    with broker(tmp_path) as port, web_server(scene.pages) as (url, _):
        lines = (f'device = "{DEVICE}"', f'broker = "mqtt://127.0.0.1:{port}"', f'server = "{url}"')
        (tmp_path / "device.toml").write_text("\n".join((*lines, 'data = "examples.npz"')))
        async with scripted_server(port) as server:
            disk = SmallDisk(tmp_path)
            try:
                while not (await server.state()).online:
                    pass
                disk.inside(spoil)
                await server.publish_plan(scene.plan(1, scene.model, "float32"))
                await disk.says(words)
                disk.inside(mend)
                update, digest = await server.update(1)
                assert update.examples == 40
                disk.inside(spoil)
                await server.send_receipt(1, digest)
                await disk.says("counted by the server")
                await server.publish_plan(replace(scene.plan(2, scene.model, "float32"), resync_round=2))
                await disk.says("run digits round 2: not now")
                disk.inside(mend)
                update, digest = await server.update(2)
                await server.send_receipt(2, digest)
                assert "Traceback" not in disk.log.read_text()
                assert disk.log.read_text().count("not now") < 20
            finally:
                disk.end()


async def test_a_disk_that_fails_after_the_training_keeps_the_one_payload_until_there_is_room(
    tmp_path, scene, monkeypatch, caplog
):
    real, full = Path.open, [True]

    def broken(path, mode="r", *arguments, **keywords):
        if full[0] and "w" in mode and "outbox" in str(path):
            raise OSError(28, os.strerror(28), str(path))
        return real(path, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", broken)
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        while caplog.text.count("not sent yet: the update cannot be kept in") < 2:
            await asyncio.sleep(0.01)
        assert "the disk is full" in caplog.text
        full[0] = False
        update, _ = await server.update(1)
        assert isinstance(update, messages.Update)


async def test_an_update_larger_than_the_outbox_is_declined_and_the_log_names_the_setting(tmp_path, caplog):
    scene = make_scene(tmp_path, hidden=(1024, 1024))
    async with surroundings(scene, tmp_path, outbox_mb=1) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(replace(scene.plan(1, scene.model, "float32"), keep=1.0))
        payload, _ = await server.payload(1)
        assert messages.decode(payload, messages.Decline).cause == "internal"
    assert "outbox_mb allows 1000000" in caplog.text
