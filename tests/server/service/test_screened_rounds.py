"""Outliers and quarantine in the whole service, also across restarts."""

import asyncio
from contextlib import AsyncExitStack
from types import SimpleNamespace

import httpx
import numpy as np

from server.event_log import EventFilter
from server.quarantine import QuarantineRule
from server.records import QuarantineRecord
from server.screening import LARGEST_MAGNITUDE

NAMES = "abcdf"
FACTOR = {"f": 64.0}


def value(text: str, name: str) -> float:
    """Of a metric as Prometheus reads it."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"fisherfleet_{name} ")]
    return float(line.rpartition(" ")[2])


async def test_an_outlier_is_counted_and_left_out_and_its_device_held_until_released(
    scene: SimpleNamespace, weights: dict
) -> None:
    rule = QuarantineRule(faults=1, rounds=1)
    settings = scene.running(min_devices=5, rounds=2, quarantine=rule)
    kept = scene.keeping(0, 1, 2, 3)
    async with AsyncExitStack() as stack, scene.serving(settings) as (service, run, records):
        devices = await asyncio.gather(*(stack.enter_async_context(scene.connected(name)) for name in NAMES))
        plan = await devices[0].next_plan(1)
        sent = [device.send(plan, device.update(plan, kept, FACTOR.get(device.name, 0.125))) for device in devices]
        assert all(receipt.accepted for receipt in await asyncio.gather(*sent))
        plan = await devices[0].next_plan(2)
        for name, array in service.latest_parameters().items():
            np.testing.assert_array_equal(array, weights[name] + np.float32(0.125))
        bad = devices[-1]
        receipt = await bad.send(plan, bad.update(plan, kept, 0.25))
        assert not receipt.accepted
        assert (
            "device f is in quarantine until its operator releases it: faults in 1 of the last 1 rounds (1)"
            in receipt.reason
        )
        async with httpx.AsyncClient() as client:
            token = {"Authorization": f"Bearer {service.store.tokens.create('prometheus', 'viewer')}"}
            metrics = (await client.get(f"{service.http_url}/metrics", headers=token)).text
        assert value(metrics, 'updates_refused_total{cause="outlier",run="run"}') == 1
        assert value(metrics, 'updates_refused_total{cause="quarantined",run="run"}') >= 1
        assert value(metrics, 'updates_accepted_total{late="false",run="run"}') == 5
        assert value(metrics, "devices_quarantined") == 1
        assert service.store.quarantine.release("f")
        assert (await bad.send(plan, bad.update(plan, kept, 0.125))).accepted
        await asyncio.gather(*(one.send(plan, one.update(plan, kept, 0.125)) for one in devices[:-1]))
        await run
        assert [record.updates_accepted for record in records] == [5, 5]
        service.store.events.flush()
        said = [one.kind for one in service.store.events.list(wanted=EventFilter(device="f"))]
        assert [kind for kind in said if kind in {"update-refused", "device-quarantined"}][:2] == [
            "update-refused",
            "device-quarantined",
        ]


async def test_a_device_that_sends_what_none_may_is_held_and_stays_so_in_the_next_process(
    scene: SimpleNamespace,
) -> None:
    settings = scene.running(min_devices=2, rounds=3, resync_every=1, quarantine=QuarantineRule(faults=1, rounds=1))
    kept = scene.keeping(0)
    async with scene.connected("a") as a, scene.connected("b") as b:
        async with scene.serving(settings) as (_, _, records):
            plan = await a.next_plan(1)
            refused = await b.send(await b.next_plan(1), b.update(plan, kept, LARGEST_MAGNITUDE * 10))
            assert not refused.accepted
            await a.send(plan, a.update(plan, kept, 0.125))
            plan = await a.next_plan(2)
        async with scene.serving(settings) as (service, run, records):
            (held,) = service.store.quarantine.held
            assert held == QuarantineRecord("b", "run", 1, held.at, held.reason)
            assert "holds a value of magnitude" in held.reason
            await a.send(plan, a.update(plan, kept, 0.125))
            plan = await a.next_plan(3)
            await a.send(plan, a.update(plan, kept, 0.125))
            await run
            assert [record.updates_accepted for record in records] == [1, 1]
