"""A database that is away for a while makes a round wait, and loses nothing."""

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest

from tests.throwaway_postgresql import Postgresql


async def test_a_run_goes_on_when_its_database_is_back(
    scene: SimpleNamespace, postgresql: Postgresql, caplog: pytest.LogCaptureFixture
) -> None:
    settings = replace(scene.running(min_devices=2), database=postgresql.new_database())
    async with scene.connected("a") as a, scene.connected("b") as b, scene.serving(settings) as (service, run, records):
        plan = await a.next_plan(1)
        assert (await a.send(plan, a.update(plan, scene.keeping(0), 0.5))).accepted
        sending = asyncio.create_task(b.send(plan, b.update(plan, scene.keeping(1), 0.5), again_after=0.3))
        await asyncio.to_thread(postgresql.stop)
        try:
            while "1 updates wait to be counted: database postgresql" not in caplog.text:
                await asyncio.sleep(0.05)
        finally:
            await asyncio.to_thread(postgresql.start)
        assert (await sending).accepted
        await run
        counted = [(update.round, update.device) for update in service.store.updates.of_run("run")]
    assert counted == [(1, "a"), (1, "b")]
    assert [record.updates_accepted for record in records] == [2]
