"""A back-up made while a run goes on, restored elsewhere into the other kind of database: the model is the same."""

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from sqlalchemy import URL

from server.back_up.back_up import Subject, back_up
from server.back_up.restore import Place, restore
from tests.throwaway_postgresql import Postgresql


@pytest.mark.parametrize("into_postgresql", [True, False])
async def test_a_run_restored_elsewhere_ends_with_the_same_model(
    into_postgresql: bool,
    scene: SimpleNamespace,
    postgresql: Postgresql,
    tmp_path: Path,
) -> None:
    connected, keeping, serving = scene.connected, scene.keeping, scene.serving
    file: URL | None = None
    here, there = (file, postgresql.new_database()) if into_postgresql else (postgresql.new_database(), file)
    settings = replace(scene.running(rounds=3, min_devices=2, resync_every=3), database=here)
    elsewhere = replace(settings, state=tmp_path / "elsewhere", database=there)
    generator = np.random.default_rng(3)
    async with connected("a") as a, connected("b") as b:

        async def finish(plan, payload, run) -> None:
            assert (await b.send(plan, payload)).accepted
            last = await a.next_plan(3)
            for number, device in enumerate((a, b)):
                drawn = np.random.default_rng(number)
                assert (await device.send(last, device.update(last, keeping(2), drawn))).accepted
            await run

        async with serving(settings) as (service, run, _):
            first = await a.next_plan(1)
            for device in (a, b):
                assert (await device.send(first, device.update(first, keeping(0, 2), generator))).accepted
            plan = await a.next_plan(2)
            assert (await a.send(plan, a.update(plan, keeping(0, 2), generator))).accepted
            subject = Subject(settings.state, settings.database)
            await asyncio.to_thread(back_up, subject, tmp_path / "b.tar.zst", 1.0)
            payload = b.update(plan, keeping(0, 2), generator)
            await finish(plan, payload, run)
            undisturbed = service.latest_parameters()
            counted = [update.device for update in service.store.updates.of_run("run")]
        restore(tmp_path / "b.tar.zst", Place(elsewhere.state, elsewhere.database))
        async with serving(elsewhere) as (service, run, records):
            assert await a.next_plan(2) == plan
            await finish(plan, payload, run)
            restored = service.latest_parameters()
            assert [update.device for update in service.store.updates.of_run("run")] == counted
    assert [record.round for record in records] == [2, 3]
    assert {name: array.tobytes() for name, array in restored.items()} == {
        name: array.tobytes() for name, array in undisturbed.items()
    }
