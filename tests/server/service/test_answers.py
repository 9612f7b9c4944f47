"""What devices are answered, by the whole service against a real broker."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import aiomqtt
import msgspec
import numpy as np
import pytest

from server.config import ServiceSettings
from server.update_rows import UpdateRows
from tests.patience import PATIENCE
from wire_protocol import chunking, messages, topics
from wire_protocol.topics import Part

CHUNK_BYTES = 50


async def test_a_duplicate_is_counted_once_and_a_conflict_refused(
    running: Callable, weights: dict, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    async with (
        serving(settings) as (service, run, records),
        connected("a") as a,
        connected("b") as b,
    ):
        plan = await a.next_plan(1)
        payload = a.update(plan, keeping(0), 0.5)
        receipt = await a.send(plan, payload)
        assert receipt.accepted
        assert await a.send(plan, payload) == receipt
        conflict = await a.send(plan, a.update(plan, keeping(0), 64.0))
        assert not conflict.accepted
        assert "another update of this device was counted" in conflict.reason
        assert (await b.send(plan, b.update(plan, keeping(3), 1.0))).accepted
        await run
        np.testing.assert_array_equal(service.latest_parameters()["b2"], weights["b2"] + np.float32(0.75))
        np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [0.5, 0, 0, 1.0])
        assert len(service.store.updates.of_run("run")) == 2
        assert [(one.device, one.times) for one in service.store.updates.conflicts("run", 1)] == [("a", 1)]
        assert [device.conflicts for device in service.store.devices()] == [1, 0]
    assert (records[0].updates_accepted, records[0].updates_rejected) == (2, 1)


async def test_lost_chunks_are_asked_for(
    settings: ServiceSettings, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    async with serving(settings) as (_, run, _records), connected("a") as a:
        plan = await a.next_plan(1)
        payload = a.update(plan, keeping(0, 1), 0.5)
        await a.announce(plan, payload)
        everything = set(range(chunking.manifest_of(payload, CHUNK_BYTES).chunk_count))
        assert set((await a.needs.get()).missing) == everything
        await a.send_chunks(plan, payload, 0, 2)
        await a.announce(plan, payload)
        need = await a.needs.get()
        assert set(need.missing) == everything - {0, 2}
        await a.send_chunks(plan, payload, *need.missing)
        assert (await a.receipts.get()).accepted
        await run


async def test_refusals_reach_the_device(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=2)
    async with serving(settings) as (_, run, records), connected("a") as a:
        first = await a.next_plan(1)
        garbage = await a.send(first, a.sealed(first, b"garbage" * 20))
        assert not garbage.accepted
        assert "not a valid Update" in garbage.reason
        unsigned = await a.send(first, a.body(first, keeping(0), 0.5))
        assert "not a valid Sealed" in unsigned.reason
        counted = a.update(first, keeping(0), 0.5)
        assert (await a.send(first, counted)).accepted
        second = await a.next_plan(2)
        late = await a.send(first, a.update(first, keeping(0), 0.25))
        assert (late.accepted, late.round) == (False, 1)
        assert "round 1 is not open" in late.reason
        assert (await a.send(first, counted)).accepted
        assert (await a.send(second, a.update(second, keeping(0), 0.5))).accepted
        await run
    assert [record.updates_rejected for record in records] == [2, 1]


async def test_other_runs_and_bad_messages_are_left_alone(
    settings: ServiceSettings, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    async with serving(settings) as (_, run, records), connected("a") as a:
        plan = await a.next_plan(1)
        other = topics.uplink(Part("a", "other", 7, None))
        await a.client.publish(other, messages.encode(chunking.manifest_of(b"payload")), qos=1)
        for topic in (topics.uplink(Part("a", "run", 1, None)), "fl/v1/up/x", topics.state("a"), "fl/v1/state/.."):
            await a.client.publish(topic, b"\xff\x00", qos=1)
        receipt = await a.send(plan, a.update(plan, keeping(0), 0.5))
        assert receipt.accepted
        await run
        assert a.receipts.empty()
    assert (records[0].updates_accepted, records[0].updates_rejected) == (1, 0)


async def test_while_the_next_round_opens_the_last_one_takes_no_more(
    running: Callable, connected: Callable, keeping: Callable, monkeypatch: pytest.MonkeyPatch, serving: Callable
) -> None:
    settings = running(rounds=2)
    opening, go_on = threading.Event(), threading.Event()
    async with serving(settings) as (service, run, records), connected("a") as a:
        first = await a.next_plan(1)
        write = service.store.open_round

        def slow(*arguments: Any) -> None:
            opening.set()
            go_on.wait(PATIENCE)
            write(*arguments)

        monkeypatch.setattr(service.store, "open_round", slow)
        assert (await a.send(first, a.update(first, keeping(0), 0.5))).accepted
        await asyncio.to_thread(opening.wait, PATIENCE)
        async with connected("b") as b:
            late = b.update(first, keeping(1), 9.0)
            await b.announce(first, late)
            assert "round 1 is not open" in (await b.receipts.get()).reason
            go_on.set()
        second = await a.next_plan(2)
        assert (await a.send(second, a.update(second, keeping(0), 0.5))).accepted
        await run
    assert [record.updates_accepted for record in records] == [1, 1]


async def test_an_update_that_is_whole_only_after_its_round_closed_is_not_counted(
    running: Callable, broker: Any, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=2, min_devices=2)
    async with serving(settings) as (service, _run, records):
        async with connected("b") as b, connected("a") as a:
            plan = await a.next_plan(1)
            late = b.update(plan, keeping(1), 9.0)
            await b.announce(plan, late)
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        while not records:
            await asyncio.sleep(0.01)
        async with aiomqtt.Client("127.0.0.1", broker.port) as client:
            await client.subscribe(topics.receipt("b"), qos=1)
            b = replace(b, client=client)
            await b.send_chunks(plan, late)
            await b.announce(plan, late)
            listening = asyncio.create_task(b.listen())
            assert "round 1 is not open" in (await b.receipts.get()).reason
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        assert [update.device for update in service.store.updates.of_run("run")] == ["a"]


async def test_what_another_sealed_is_refused_and_the_device_is_still_waited_for(
    running: Callable, fleet: Any, weights: dict, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    async with serving(settings) as (service, run, records), connected("a") as a, connected("b") as b:
        plan = await a.next_plan(1)
        forged = fleet.sealed("b", plan, a.body(plan, keeping(0), 64.0))
        assert "cannot be opened" in (await a.send(plan, forged)).reason
        moved = b.update(msgspec.structs.replace(plan, round=2), keeping(0), 64.0)
        assert "cannot be opened" in (await b.send(plan, moved)).reason
        assert (await b.send(plan, b.update(plan, keeping(3), 1.0))).accepted
        assert service.store.updates.refusals("run", 1) == ()
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        await run
        np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [0.5, 0, 0, 1.0])
    assert records[0].updates_accepted == 2


async def test_updates_that_came_together_are_counted_by_one_commit(
    running: Callable,
    weights: dict,
    connected: Callable,
    keeping: Callable,
    serving: Callable,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    settings = running(min_devices=3)
    async with serving(settings) as (service, run, _), connected("a") as a, connected("b") as b, connected("c") as c:
        commits, devices = [], (a, b, c)
        commit = UpdateRows.commit
        plans = [await device.next_plan(1) for device in devices]
        hold = asyncio.Event()
        count = service.active.get("run").answers.count

        async def held(*arguments: Any) -> Any:
            await hold.wait()
            return await count(*arguments)

        def noted(rows: UpdateRows, batch: Any) -> Any:
            commits.append(len(batch.updates))
            return commit(rows, batch)

        monkeypatch.setattr(service.active.get("run").answers, "count", held)
        monkeypatch.setattr(UpdateRows, "commit", noted)
        sends = [
            asyncio.create_task(device.send(plan, device.update(plan, keeping(0), 1.0)))
            for device, plan in zip(devices, plans, strict=True)
        ]
        while service._inbox._queue.qsize() < 2:
            await asyncio.sleep(0.01)
        hold.set()
        assert all([(await send).accepted for send in sends])
        await run
    assert commits == [1, 2]
