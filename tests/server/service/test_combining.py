"""Rules of aggregation and server optimizers in the whole service, also across restarts."""

import logging
from types import SimpleNamespace

import numpy as np
import pytest

from server.aggregation.choice import AggregationConfig
from server.server_optimizers.choice import ServerOptimizerConfig

MOMENTUM = ServerOptimizerConfig("fedavgm", server_learning_rate=1.0, server_momentum=0.5)


async def test_a_median_does_not_follow_one_device(scene: SimpleNamespace, weights: dict) -> None:
    settings = scene.running(min_devices=3, aggregation=AggregationConfig("median"))
    async with (
        scene.connected("a") as a,
        scene.connected("b") as b,
        scene.connected("c") as c,
        scene.serving(settings) as (service, run, records),
    ):
        for device, value in ((a, 0.5), (b, 64.0), (c, 0.25)):
            plan = await device.next_plan(1)
            assert (await device.send(plan, device.update(plan, scene.keeping(0, 1), value))).accepted
        await run
        moved = service.latest_parameters()["b1"] - weights["b1"]
    np.testing.assert_array_equal(moved, [0.5, 0.5, 0, 0])
    assert records[0].updates_accepted == 3


async def test_momentum_goes_on_after_a_restart_and_holds_where_nobody_trains(
    scene: SimpleNamespace, weights: dict
) -> None:
    """Neuron 0: v = 1, then 0.5 + 1 = 1.5, in all 2.5. Neuron 1 has round 2 alone, neuron 2 round 1."""
    settings = scene.running(rounds=2, resync_every=1, server_optimizer=MOMENTUM)
    async with scene.connected("a") as a:
        async with scene.serving(settings):
            plan = await a.next_plan(1)
            assert (await a.send(plan, a.update(plan, scene.keeping(0, 2), 1.0))).accepted
            second = await a.next_plan(2)
        async with scene.serving(settings) as (service, run, _):
            assert (await a.send(second, a.update(second, scene.keeping(0, 1), 1.0))).accepted
            await run
            moved = service.latest_parameters()["b1"] - weights["b1"]
    np.testing.assert_array_equal(moved, [2.5, 1.0, 1.0, 0])


async def test_another_optimizer_after_a_restart_begins_afresh_and_says_so(
    scene: SimpleNamespace, weights: dict, caplog: pytest.LogCaptureFixture
) -> None:
    async with scene.connected("a") as a:
        async with scene.serving(scene.running(rounds=2, resync_every=1)):
            plan = await a.next_plan(1)
            assert (await a.send(plan, a.update(plan, scene.keeping(0), 1.0))).accepted
            second = await a.next_plan(2)
        settings = scene.running(rounds=2, resync_every=1, server_optimizer=MOMENTUM)
        with caplog.at_level(logging.WARNING, "server"):
            async with scene.serving(settings) as (service, run, _):
                assert (await a.send(second, a.update(second, scene.keeping(0), 1.0))).accepted
                await run
                moved = service.latest_parameters()["b1"] - weights["b1"]
    np.testing.assert_array_equal(moved, [2.0, 0, 0, 0])
    assert "run run: version 1 has no moments of fedavgm, they begin afresh" in caplog.text
