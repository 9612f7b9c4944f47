"""Buffered rounds in the whole service: late updates count in the open round with their discount, or are refused."""

import asyncio
import threading
from collections import deque
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import msgspec
import numpy as np
import pytest

from server.aggregation.buffered import BufferRule
from server.errors import StorageError
from server.update_rows import UpdateRows
from server.uplink import Complete
from tests.patience import PATIENCE
from wire_protocol import messages
from wire_protocol.messages import SELECTION_UNKNOWN, RoundPlan, Update
from wire_protocol.sub_model import selection_id

GOAL_2 = BufferRule(goal=2, most_stale=1, exponent=1.0)


def brief(device: Any, plan: RoundPlan, kept: Any, value: float) -> bytes:
    """An update that names its neurons by their id only, as one that comes of a slice."""
    update = messages.decode(device.body(plan, kept, value), Update)
    return device.sealed(
        plan, messages.encode(msgspec.structs.replace(update, kept={}, selection=selection_id(device.layout, kept)))
    )


def damaged(*_arguments: Any) -> None:
    raise StorageError("disk I/O error")


async def close_round(plan: RoundPlan, kept: Any, value: float, *devices: Any) -> None:
    for device in devices:
        assert (await device.send(plan, device.update(plan, kept, value))).accepted


async def test_a_slow_devices_update_counts_with_its_discount_and_one_too_old_is_refused(
    scene: SimpleNamespace, weights: dict
) -> None:
    """Weights are examples: in round 2 a says 1 once and c, a version late, says 4 / 2 thrice: (1 + 3 x 2) / 4."""
    settings = scene.running(rounds=3, min_devices=3, resync_every=10, buffer=GOAL_2)
    async with (
        scene.serving(settings) as (service, run, records),
        scene.connected("a") as a,
        scene.connected("b") as b,
        scene.connected("c") as c,
        AsyncExitStack() as stack,
    ):
        first = await c.next_plan(1)
        d = await stack.enter_async_context(scene.connected("d"))
        assert first.most_stale == 1
        await close_round(first, scene.keeping(0), 1.0, a, b)
        second = await a.next_plan(2)
        late = c.update(first, scene.keeping(0), 4.0, examples=3)
        receipt = await c.send(first, late)
        assert receipt.accepted
        assert (await c.slices.get()).round == 2
        assert await c.send(first, late) == receipt
        assert "another update" in (await c.send(first, c.update(first, scene.keeping(0), 9.0))).reason
        await close_round(second, scene.keeping(0), 1.0, a)
        third = await b.next_plan(3)
        await close_round(third, scene.keeping(1), 1.0, a)
        stale = await d.send(first, d.update(first, scene.keeping(2), 64.0))
        assert stale.reason == "round 1 is over: late updates count up to 1 model versions behind"
        assert await c.send(first, late) == receipt
        await close_round(third, scene.keeping(1), 1.0, b)
        await run
        counted = [(row.round, row.device, row.counted_in) for row in service.store.updates.of_run("run")]
        moved = service.latest_parameters()["b1"] - weights["b1"]
    assert counted == [(1, "a", 1), (1, "b", 1), (1, "c", 2), (2, "a", 2), (3, "a", 3), (3, "b", 3)]
    np.testing.assert_array_equal(moved, [1.0 + 1.75, 1.0, 0, 0])
    assert [(record.updates_accepted, record.updates_late) for record in records] == [(2, 0), (2, 1), (2, 0)]


@pytest.mark.parametrize("most_stale", [0, 4])
async def test_with_all_devices_as_the_goal_and_none_late_it_is_the_synchronous_run_bit_for_bit(
    scene: SimpleNamespace, most_stale: int
) -> None:
    async def trained(run_name: str, buffer: BufferRule | None) -> dict[str, bytes]:
        settings = scene.running(run=run_name, rounds=4, min_devices=3, resync_every=2, buffer=buffer)
        async with AsyncExitStack() as stack:
            devices = [await stack.enter_async_context(scene.connected(name)) for name in "abc"]
            service, run, _ = await stack.enter_async_context(scene.serving(settings))
            for number in range(1, 5):
                for device in devices:
                    plan = await device.next_plan(number)
                    generator = np.random.default_rng([number, ord(device.name)])
                    kept = scene.keeping(*sorted(generator.choice(4, size=2, replace=False)))
                    payload = device.update(plan, kept, generator, examples=int(generator.integers(1, 100)))
                    assert (await device.send(plan, payload)).accepted
            await run
            return {name: array.tobytes() for name, array in service.latest_parameters().items()}

    synchronous = await trained("synchronous", None)
    assert await trained("buffered", BufferRule(3, most_stale)) == synchronous


@pytest.mark.parametrize("restarted", [False, True], ids=["in one process", "after a restart"])
async def test_a_late_updates_neurons_are_known_across_a_resync(
    scene: SimpleNamespace, weights: dict, restarted: bool
) -> None:
    settings = scene.running(rounds=3, min_devices=3, resync_every=2, buffer=GOAL_2)
    kept = scene.keeping(0, 1)
    async with AsyncExitStack() as stack, AsyncExitStack() as servers:
        a, b, c, d = [await stack.enter_async_context(scene.connected(name)) for name in "abcd"]
        service, run, records = await servers.enter_async_context(scene.serving(settings))
        first = await c.next_plan(1)
        await close_round(first, kept, 0.0, c, a)
        second = await c.next_plan(2)
        await close_round(second, kept, 0.0, a, b)
        third = await a.next_plan(3)
        assert third.resync
        if restarted:
            await servers.aclose()
            service, run, records = await servers.enter_async_context(scene.serving(settings))
        assert (await d.send(second, brief(d, second, kept, 64.0))).reason == SELECTION_UNKNOWN
        assert (await c.send(second, brief(c, second, kept, 4.0))).accepted
        await close_round(third, scene.keeping(0, 2), 1.0, a)
        await run
        moved = service.latest_parameters()["b1"] - weights["b1"]
    np.testing.assert_array_equal(moved, [(4 / 2 + 1) / 2, 4 / 2, 1.0, 0])
    assert (records[-1].updates_accepted, records[-1].updates_late) == (2, 1)


async def test_an_update_announced_while_the_next_round_opens_is_counted_there(
    scene: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = scene.running(rounds=2, min_devices=3, buffer=GOAL_2)
    opening, go_on = threading.Event(), threading.Event()
    async with (
        scene.serving(settings) as (service, run, records),
        scene.connected("a") as a,
        scene.connected("b") as b,
        scene.connected("c") as c,
    ):
        first = await c.next_plan(1)
        write = service.store.open_round

        def slow(*arguments: Any) -> None:
            opening.set()
            go_on.wait(PATIENCE)
            write(*arguments)

        monkeypatch.setattr(service.store, "open_round", slow)
        await close_round(first, scene.keeping(0), 1.0, a, b)
        await asyncio.to_thread(opening.wait, PATIENCE)
        sending = asyncio.create_task(c.send(first, c.update(first, scene.keeping(0), 1.0), again_after=0.1))
        assert (await c.needs.get()).round == 1
        go_on.set()
        assert (await sending).accepted
        second = await a.next_plan(2)
        await close_round(second, scene.keeping(0), 1.0, a)
        await run
    assert [(record.updates_accepted, record.updates_late) for record in records] == [(2, 0), (2, 1)]


async def test_a_late_update_that_cannot_be_looked_up_waits_until_it_can_be(
    scene: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = scene.running(rounds=2, min_devices=3, buffer=GOAL_2)
    async with (
        scene.serving(settings) as (service, run, records),
        scene.connected("a") as a,
        scene.connected("b") as b,
        scene.connected("c") as c,
    ):
        first = await c.next_plan(1)
        await close_round(first, scene.keeping(0), 1.0, a, b)
        second = await a.next_plan(2)
        count, failures = service.active.get("run").answers.count, 2

        async def unread(completes: deque[Complete], let_go: Any) -> Any:
            nonlocal failures
            if not completes or not failures:
                return await count(completes, let_go)
            failures -= 1
            with monkeypatch.context() as patched:
                patched.setattr(UpdateRows, "counted_hash", damaged)
                return await count(completes, let_go)

        monkeypatch.setattr(service.active.get("run").answers, "count", unread)
        late = c.update(first, scene.keeping(0), 1.0)
        assert (await c.send(first, late, again_after=0.1)).accepted
        assert failures == 0
        await close_round(second, scene.keeping(0), 1.0, a)
        await run
    assert [(record.updates_accepted, record.updates_late) for record in records] == [(2, 0), (2, 1)]


async def test_after_a_restart_the_models_of_all_rounds_that_count_are_on_offer(scene: SimpleNamespace) -> None:
    settings = scene.running(rounds=5, min_devices=3, resync_every=10, buffer=BufferRule(goal=2, most_stale=3))
    async with AsyncExitStack() as stack, AsyncExitStack() as servers:
        a, b, _ = [await stack.enter_async_context(scene.connected(name)) for name in "abc"]
        await servers.enter_async_context(scene.serving(settings))
        plans = []
        for number in (1, 2, 3):
            plans.append(await a.next_plan(number))
            await close_round(plans[-1], scene.keeping(0), 1.0, a, b)
        plans.append(await a.next_plan(4))
        await servers.aclose()
        await servers.enter_async_context(scene.serving(settings))
        offered = {path.name for path in (settings.state / "encoded" / "run").iterdir()}
        assert offered == {plan.model for plan in plans}
        assert len(offered) == 4
