"""The fleet's own ranking of neurons, from the scores that devices send to the plans they get."""

from typing import Any

import msgspec
import numpy as np

from wire_protocol import messages
from wire_protocol.local_training import LocalTraining
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.neuron_scores import decode_ranking, encode_scores


async def test_a_resync_brings_the_ranking_by_the_scores_of_the_one_before(scene: Any, layout: Any) -> None:
    training = LocalTraining(clip_gradient=2.0)
    settings = scene.running(rounds=4, resync_every=2, min_devices=2, selection="fisher-cohort", training=training)

    def payload(device: Any, plan: RoundPlan, *scores: float) -> bytes:
        update = messages.decode(device.body(plan, scene.keeping(0, 1), 0.5), Update)
        encoded = encode_scores(layout, {"hidden": np.array(scores, np.float32)}) if scores else b""
        return device.sealed(plan, messages.encode(msgspec.structs.replace(update, scores=encoded)))

    async with scene.serving(settings) as (_, run, _), scene.connected("a") as a, scene.connected("b") as b:
        plan = await a.next_plan(1)
        assert (plan.training, plan.ranking) == (training, {})
        assert (await a.send(plan, payload(a, plan, 1, 2, 3, 0))).accepted
        assert (await b.send(plan, payload(b, plan, 5, 1, 1, 0))).accepted
        plan = await a.next_plan(2)
        assert plan.ranking == {}
        assert (await a.send(plan, payload(a, plan))).accepted
        assert (await b.send(plan, payload(b, plan))).accepted
        plan = await a.next_plan(3)
        assert plan.resync
        assert decode_ranking(layout, plan.ranking)["hidden"].tolist() == [0, 2, 1, 3]
        run.cancel()
