"""The fleet's own ranking of neurons, from the scores that devices send to the plans they get."""

from contextlib import AsyncExitStack
from typing import Any

import msgspec
import numpy as np
import pytest

from server.aggregation.buffered import BufferRule
from wire_protocol import messages
from wire_protocol.local_training import LocalTraining
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.neuron_scores import decode_ranking, encode_scores


def scored(scene: Any, layout: Any, device: Any, plan: RoundPlan, *scores: float) -> bytes:
    update = messages.decode(device.body(plan, scene.keeping(0, 1), 0.5), Update)
    encoded = encode_scores(layout, {"hidden": np.array(scores, np.float32)}) if scores else b""
    return device.sealed(plan, messages.encode(msgspec.structs.replace(update, scores=encoded)))


@pytest.mark.parametrize("restarted", [False, True], ids=["in one process", "after a restart"])
async def test_the_first_rounds_scores_rank_the_neurons_of_the_second_which_chooses_again(
    scene: Any, layout: Any, restarted: bool
) -> None:
    training = LocalTraining(clip_gradient=2.0)
    settings = scene.running(rounds=4, resync_every=2, min_devices=2, selection="fisher-cohort", training=training)

    def payload(device: Any, plan: RoundPlan, *scores: float) -> bytes:
        return scored(scene, layout, device, plan, *scores)

    async with scene.connected("a") as a, scene.connected("b") as b, AsyncExitStack() as servers:
        await servers.enter_async_context(scene.serving(settings))
        plan = await a.next_plan(1)
        assert (plan.training, plan.ranking, plan.resync) == (training, {}, True)
        assert (await a.send(plan, payload(a, plan, 1, 2, 3, 0))).accepted
        assert (await b.send(plan, payload(b, plan, 5, 1, 1, 0))).accepted
        plan = await a.next_plan(2)
        if restarted:
            await servers.aclose()
            await servers.enter_async_context(scene.serving(settings))
        assert plan.resync
        assert decode_ranking(layout, plan.ranking)["hidden"].tolist() == [0, 2]  # of the two that each keeps
        assert (await a.send(plan, payload(a, plan, 0, 1, 0, 0))).accepted
        assert (await b.send(plan, payload(b, plan, 1, 0, 0, 0.5))).accepted
        plan = await a.next_plan(3)
        assert (plan.resync, plan.ranking) == (False, {})
        assert (await a.send(plan, payload(a, plan))).accepted
        assert (await b.send(plan, payload(b, plan))).accepted
        plan = await a.next_plan(4)
        assert plan.resync
        assert decode_ranking(layout, plan.ranking)["hidden"].tolist() == [0, 1]


async def test_in_a_buffered_run_the_rounds_after_a_resync_have_its_ranking_too(scene: Any, layout: Any) -> None:
    """For devices that were busy when it opened; its own scores are for the next resync."""
    buffer = BufferRule(1, most_stale=0)
    settings = scene.running(rounds=5, resync_every=2, selection="fisher-cohort", buffer=buffer)
    rankings = []
    async with scene.connected("a") as a, AsyncExitStack() as servers:
        await servers.enter_async_context(scene.serving(settings))
        for number, scores in ((1, (1, 2, 3, 0)), (2, (4, 3, 2, 1)), (3, ()), (4, (0, 0, 0, 1)), (5, ())):
            while (plan := await a.plans.get()) is None or plan.round < number:
                pass
            rankings.append(decode_ranking(layout, plan.ranking)["hidden"].tolist() if plan.ranking else [])
            if number == 4:
                await servers.aclose()
                await servers.enter_async_context(scene.serving(settings))
            assert (await a.send(plan, scored(scene, layout, a, plan, *scores))).accepted
    assert rankings == [[], [2, 1], [2, 1], [0, 1], [0, 1]]
