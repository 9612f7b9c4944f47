"""Disks that are full or read-only and clocks that jump: the round waits, nothing is half counted, and it goes on."""

import asyncio
import errno
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from server.clocks import Clocks
from server.config import ServiceSettings
from tests.patience import PATIENCE

DAY = 86400.0
WAITING = ("updates wait to be counted", "lost, it is asked for again")
"""In the log: it could not be spooled, or a chunk of it could not be kept until the rest came."""


async def until_logged(process: asyncio.subprocess.Process, *texts: str) -> None:
    async for line in process.stderr:
        if any(text in line.decode() for text in texts):
            return
    pytest.fail(f"the server never logged {texts}")


@pytest.fixture
def options(bundle_folder: Path, broker: Any, fleet: Any, tmp_path: Path) -> list[str]:
    options = [
        f"--bundle={bundle_folder}",
        f"--broker={broker.url}",
        f"--fleet={fleet.folder}",
        "--run=run",
        "--privacy=none",
    ]
    options += [f"--state={tmp_path / 'state'}", "--port=0", "--rounds=2", "--min-devices=2", "--local-steps=5"]
    return [*options, "--precision=float16"]


async def test_on_a_full_disk_an_update_waits_until_there_is_room(
    options: list[str], weights: dict, connected: Callable, keeping: Callable, tmp_path: Path
) -> None:
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as stack:
        a, b = [await stack.enter_async_context(connected(name)) for name in "ab"]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "server", *options, "--batch-size=8"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        stack.callback(lambda: process.returncode is None and process.kill())
        first = await a.next_plan(1)
        assert (await a.send(first, a.update(first, keeping(0), 0.5))).accepted

        room = resource.prlimit(process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (0, room[1]))
        waiting = asyncio.create_task(b.send(first, b.update(first, keeping(1), 0.25), again_after=0.3))
        await until_logged(process, *WAITING)
        assert not waiting.done()
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, room)
        assert (await waiting).accepted

        second = await a.next_plan(2)
        for device in (a, b):
            assert (await device.send(second, device.update(second, keeping(0), 1.0))).accepted
        await process.communicate()
    assert process.returncode == 0
    expected = weights["b1"] + np.array([1.5, 0.25, 0, 0], dtype=np.float32)
    np.testing.assert_array_equal(load_file(tmp_path / "state" / "model.safetensors")["b1"], expected)


class FailingDisk:
    """`os.fsync` that fails for files of one folder until it is cured; SQLite has its own."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.failures = 0
        self.reason: int | None = None
        self._folder = folder
        self._fsync = os.fsync
        monkeypatch.setattr(os, "fsync", self._sync)

    def _sync(self, descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if self.reason is not None and path.is_relative_to(self._folder):
            self.failures += 1
            raise OSError(self.reason, os.strerror(self.reason))
        self._fsync(descriptor)

    async def until_it_fails_again(self) -> None:
        before = self.failures
        while self.failures == before:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("folder", "reason"),
    [("spool", errno.ENOSPC), ("spool", errno.EIO), ("models", errno.EROFS), ("encoded", errno.ENOSPC)],
)
async def test_a_write_that_fails_is_done_again_when_it_can_be(
    folder: str,
    reason: int,
    scene: Any,
    weights: dict,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr("server.patience._RETRY_SECONDS", 0.05)
    settings = replace(scene.running(rounds=2, min_devices=2), test=None)
    disk = FailingDisk(settings.state / folder, monkeypatch)
    async with scene.serving(settings) as (service, run, records), scene.connected("a") as a, scene.connected("b") as b:
        first = await a.next_plan(1)
        assert (await a.send(first, a.update(first, scene.keeping(0), 0.5))).accepted
        disk.reason = reason
        sending = asyncio.create_task(b.send(first, b.update(first, scene.keeping(1), 0.25), again_after=0.1))
        await disk.until_it_fails_again()
        await disk.until_it_fails_again()
        assert folder != "spool" or not sending.done()
        assert len(service.store.updates.of_run("run")) == (1 if folder == "spool" else 2)
        assert len(records) == (folder == "encoded")
        disk.reason = None
        assert (await sending).accepted
        second = await a.next_plan(2)
        for device in (a, b):
            assert (await device.send(second, device.update(second, scene.keeping(3), 1.0))).accepted
        await run
        np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [0.5, 0.25, 0, 1.0])
    assert [record.updates_accepted for record in records] == [2, 2]
    errors = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert errors
    assert all(os.strerror(reason) in error and str(settings.state / folder) in error for error in errors)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of its own, for those who may mount one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=2m", "none", folder], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


async def test_on_a_file_system_that_is_full_the_round_waits(
    scene: Any, weights: dict, small_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(scene.running(min_devices=2), test=None, state=small_disk / "state")
    async with scene.serving(settings) as (service, run, _), scene.connected("a") as a, scene.connected("b") as b:
        plan = await a.next_plan(1)
        assert (await a.send(plan, a.update(plan, scene.keeping(0), 0.5))).accepted
        filler = small_disk / "filler"
        with pytest.raises(OSError, match="No space left"):
            filler.write_bytes(bytes(4 * 2**20))
        sending = asyncio.create_task(b.send(plan, b.update(plan, scene.keeping(1), 0.25), again_after=0.1))
        while not any(text in caplog.text for text in WAITING):
            await asyncio.sleep(0.01)
        assert not sending.done()
        filler.unlink()
        assert (await sending).accepted
        await run
        np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [0.5, 0.25, 0, 0])


class JumpingClock:
    """A wall's clock that someone sets."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.mark.parametrize("jump", [DAY, -DAY])
async def test_a_clock_that_jumps_a_day_costs_no_round(
    jump: float, running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=2, min_devices=2)
    clock = JumpingClock()
    async with connected("a") as a, connected("b") as b:
        async with serving(settings, Clocks(wall=clock)) as (_, run, records):
            first = await a.next_plan(1)
            assert (await a.send(first, a.update(first, keeping(0), 0.5))).accepted
            clock.ahead = jump
            assert (await b.send(first, b.update(first, keeping(1), 0.25))).accepted
            second = await a.next_plan(2)
            assert (await a.send(second, a.update(second, keeping(0), 0.5))).accepted
            assert abs(second.deadline - first.deadline - jump) < settings.run.round_seconds
            assert not run.done()
        assert records[0].updates_accepted == 2
        assert records[0].seconds < settings.run.round_seconds
        clock.ahead = 0.0
        async with serving(settings, Clocks(wall=clock)) as (_, run, records):
            while (again := await b.next_plan(2)) == second:
                pass
            assert again == msgspec.structs.replace(second, deadline=again.deadline)
            assert 0 < again.deadline - time.time() <= settings.run.round_seconds
            assert (await b.send(again, b.update(again, keeping(0), 0.25))).accepted
            await run
    assert records[0].updates_accepted == 2


async def test_a_clock_that_jumps_closes_no_round_early(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    clock = JumpingClock()
    async with serving(settings, Clocks(wall=clock)) as (service, run, _), connected("a") as a, connected("b") as b:
        plan = await a.next_plan(1)
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        clock.ahead = DAY
        async with connected("c"):
            while "c" not in {device.id for device in service.store.devices()}:
                await asyncio.sleep(0.01)
        assert not run.done()
        assert (await b.send(plan, b.update(plan, keeping(0), 0.5))).accepted
        await run


async def test_a_state_folder_that_cannot_be_used_is_named(settings: ServiceSettings, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    options = [
        f"--bundle={settings.bundle}",
        f"--fleet={settings.fleet}",
        f"--state={tmp_path / 'file'}",
        "--run=run",
        "--privacy=none",
    ]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "server", *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    _, errors = await process.communicate()
    assert process.returncode == 2
    assert f"state folder {tmp_path / 'file'} cannot be used".encode() in errors
