"""A device against a real broker and a server written out by hand."""

import asyncio
from collections import Counter
from hashlib import sha256

import numpy as np
import pytest
from msgspec.structs import replace

from tests.edge_client.scripted_server import (
    DEVICE,
    RUN,
    Scene,
    ScriptedServer,
    make_scene,
    needs_mosquitto,
    running,
    surroundings,
)
from wire_protocol import messages
from wire_protocol.model_difference import Coding, ModelDifference, encode_difference
from wire_protocol.sub_model import SubModel, from_bitmaps, gather, selection_id, sub_shapes
from wire_protocol.tensor_codec import Codec, decode, encode

pytestmark = needs_mosquitto


@pytest.fixture
def scene(tmp_path) -> Scene:
    return make_scene(tmp_path)


async def test_two_rounds_with_a_lost_chunk_and_a_slice(tmp_path, scene):
    async with surroundings(scene, tmp_path) as (server, config, asked), running(config) as device:
        birth = await server.state()
        assert (birth.online, birth.examples) == (True, 40)

        chosen = await first_round(server, scene)
        await second_round(server, scene, chosen)

        device.cancel()
        while (await server.state()).online:
            pass
    wanted = {"manifest.json", "train_step.onnx", "fisher.onnx", scene.model}
    assert Counter({path.rsplit("/", 1)[1]: count for path, count in asked.items()}) == Counter(wanted)


async def first_round(server: ScriptedServer, scene: Scene) -> SubModel:
    """The whole model by HTTP; one chunk of the update gets lost."""
    plan = scene.plan(1, scene.model, "float32")
    await server.publish_plan(plan)
    update, digest = await server.update(1, lose={1})
    chosen = from_bitmaps(scene.layout, update.kept)
    assert chosen.widths == {name: size // 2 for name, size in scene.layout.group_sizes.items()}
    assert update.scored == 40
    scene.assert_trained(update, plan, chosen, gather(scene.layout, chosen, scene.weights))
    await server.send_receipt(1, digest)
    return chosen


async def second_round(server: ScriptedServer, scene: Scene, chosen: SubModel) -> None:
    """Values of the chosen neurons by MQTT; there is no model to fetch."""
    plan = scene.plan(2, "1" * 64, "float16")
    base = {name: values + np.float32(0.01) for name, values in gather(scene.layout, chosen, scene.weights).items()}
    values = encode(base, sub_shapes(scene.layout, chosen.widths), Codec("float32"))
    await server.publish_plan(plan)
    await server.send_slice(messages.Slice(run=RUN, round=2, model_version=1, precision="float32", values=values))
    update, digest = await server.update(2)
    assert (update.kept, update.selection) == ({}, selection_id(scene.layout, chosen))
    assert update.scored == 0
    scene.assert_trained(update, plan, chosen, base)
    await server.send_receipt(2, digest)


async def test_a_resync_by_a_difference(tmp_path, scene):
    """The second model cannot be had whole."""
    shapes = sub_shapes(scene.layout, scene.layout.group_sizes)
    grown = {name: values * np.float32(1.1) for name, values in scene.weights.items()}
    coded = encode_difference(grown, scene.weights, Coding(shapes, Codec("float32"), Codec("int4")))
    digest = sha256(coded.difference).hexdigest()
    scene.pages[f"/api/v1/differences/{digest}"] = coded.difference
    offer = ModelDifference(base=scene.model, sha256=digest, size=len(coded.difference), precision="int4")
    first = scene.plan(1, scene.model, "float32")
    second = replace(scene.plan(2, sha256(coded.whole).hexdigest(), "float32"), resync_round=2, differences=(offer,))
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        for plan, model in ((first, scene.weights), (second, decode(coded.whole, shapes, Codec("float32")))):
            await server.publish_plan(plan)
            update, receipt = await server.update(plan.round)
            chosen = from_bitmaps(scene.layout, update.kept)
            scene.assert_trained(update, plan, chosen, gather(scene.layout, chosen, model))
            await server.send_receipt(plan.round, receipt)


async def test_a_device_whose_training_diverges_says_so_and_takes_part_again(tmp_path, scene):
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(replace(scene.plan(1, scene.model, "float32"), learning_rate=1e30))
        payload, digest = await server.payload(1)
        assert messages.decode(payload, messages.Decline).cause == "training"
        await server.send_receipt(1, digest, accepted=False)
        await server.publish_plan(scene.plan(2, scene.model, "float32"))
        update, _ = await server.update(2)
        assert update.scored == 40


async def test_a_device_whose_examples_do_not_fit_says_only_that(tmp_path, scene):
    np.savez(tmp_path / "examples.npz", x=scene.examples.x[:, :-1], y=scene.examples.y)
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        payload, _ = await server.payload(1)
    assert messages.decode(payload, messages.Decline) == messages.Decline(run=RUN, round=1, cause="data")


async def test_a_newer_plan_ends_the_training_at_hand(tmp_path, scene):
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(replace(scene.plan(1, scene.model, "float32"), local_steps=10**9))
        while not (tmp_path / "state" / "resyncs" / RUN / scene.model).exists():
            await asyncio.sleep(0.01)
        await server.publish_plan(replace(scene.plan(2, scene.model, "float32"), resync_round=2))
        update, _ = await server.update(2)
        assert update.trained == 80


async def test_a_device_is_silent_in_rounds_that_do_not_draw_it(tmp_path, scene):
    sampled = [replace(scene.plan(number, scene.model, "float32"), participation=0.4) for number in range(1, 20)]
    silent = next(plan for plan in sampled if not plan.draws(DEVICE))
    drawn = next(plan for plan in sampled if plan.draws(DEVICE) and plan.round > silent.round)
    async with surroundings(scene, tmp_path) as (server, config, asked), running(config):
        assert (await server.state()).online
        await server.publish_plan(replace(silent, bundle="f" * 64))
        await server.publish_plan(drawn)
        part, _ = await server.manifest()
    assert part.round == drawn.round
    assert not any("f" * 64 in path for path in asked)


async def test_in_a_buffered_run_a_newer_plan_waits_for_the_round_at_hand_and_its_receipt(tmp_path, scene):
    async with surroundings(scene, tmp_path) as (server, config, _), running(config):
        assert (await server.state()).online
        await server.publish_plan(replace(scene.plan(1, scene.model, "float32"), most_stale=2))
        await server.publish_plan(replace(scene.plan(2, "1" * 64, "float32"), most_stale=2))
        update, digest = await server.update(1)
        chosen = from_bitmaps(scene.layout, update.kept)
        base = gather(scene.layout, chosen, scene.weights)
        values = encode(base, sub_shapes(scene.layout, chosen.widths), Codec("float32"))
        await server.send_slice(messages.Slice(run=RUN, round=2, model_version=1, precision="float32", values=values))
        part, _ = await server.manifest()
        assert part.round == 1
        await server.send_receipt(1, digest)
        update, _ = await server.update(2)
        assert (update.model_version, update.selection) == (1, selection_id(scene.layout, chosen))
