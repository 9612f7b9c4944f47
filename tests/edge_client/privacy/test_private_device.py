"""A whole device in private runs, behind a real broker: the sealed bytes it sends, its ledger, and its refusals."""

import json

import msgspec
import numpy as np
import pytest
from scipy import stats

from edge_client.__main__ import main
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import Charge
from edge_client.privacy.ledger import Ledger, read_ledger
from tests.edge_client.scripted_server import (
    DEVICE,
    RUN,
    make_scene,
    needs_mosquitto,
    running,
    surroundings,
)
from wire_protocol import messages
from wire_protocol.privacy import DevicePrivacy, GaussianReleases, RecordPrivacy
from wire_protocol.sub_model import from_bitmaps, gather, sub_shapes
from wire_protocol.tensor_codec import Codec, decode, encode

pytestmark = needs_mosquitto
RECORD = RecordPrivacy(clip_norm=0.5, noise_multiplier=40.0, sampling_rate=0.25)
SCORED = msgspec.structs.replace(RECORD, score_noise_multiplier=30.0)
DEVICE_WIDE = DevicePrivacy(clip_norm=0.5, noise_multiplier=40.0)
PURPOSES = {RECORD: ["training"], SCORED: ["training", "scores"], DEVICE_WIDE: ["update"]}
SMALL = (32, 16)


def private_plan(scene, number, privacy, **changes):
    selection = "fisher" if privacy == SCORED else "random"
    plan = scene.plan(number, scene.model, "float32")
    changes = {"privacy": privacy, "selection": selection, "local_steps": 1, "batch_size": 10, **changes}
    return msgspec.structs.replace(plan, **changes)


def noise_in(scene, plan, update, sub_model):
    arrays = decode(update.values, sub_shapes(scene.layout, sub_model.widths), update.codec)
    factor = plan.batch_size / plan.learning_rate if isinstance(plan.privacy, RecordPrivacy) else 1.0
    return factor * np.concatenate([array.ravel() for array in arrays.values()])


@pytest.mark.parametrize("privacy", [RECORD, SCORED, DEVICE_WIDE], ids=["record", "scored", "device"])
async def test_the_sealed_bytes_have_the_promised_noise_fresh_in_every_round_and_charged_before(tmp_path, privacy):
    scene = make_scene(tmp_path)
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=1000.0)) as (server, config, _), running(config):
        await server.state()
        first = private_plan(scene, 1, privacy)
        await server.publish_plan(first)
        update, digest = await server.update(1)
        await server.send_receipt(1, digest)
        chosen = from_bitmaps(scene.layout, update.kept)
        second = private_plan(scene, 2, privacy)
        await server.publish_plan(second)
        shapes = sub_shapes(scene.layout, chosen.widths)
        values = encode(gather(scene.layout, chosen, scene.weights), shapes, Codec("float32"))
        content = messages.Slice(run=RUN, round=2, model_version=1, precision="float32", values=values)
        await server.send_slice(content)
        again, _ = await server.update(2)
    book = read_ledger(config.state)
    stddev = privacy.noise_multiplier * privacy.clip_norm
    sent = [noise_in(scene, first, update, chosen), noise_in(scene, second, again, chosen)]
    for values in sent:
        assert stats.kstest(values, stats.norm(0, stddev).cdf).pvalue > 1e-4
    assert abs(np.corrcoef(*sent)[0, 1]) < 6 / np.sqrt(len(sent[0]))
    assert (update.examples, update.trained) == (first.presumed_examples, 10)
    assert book.count == 2 * 1 + (privacy == SCORED)  # scores are charged where neurons are chosen
    assert book.last.charge.round == 2


@pytest.mark.parametrize("privacy", [RECORD, DEVICE_WIDE], ids=["record", "device"])
async def test_a_count_of_what_is_clipped_is_sent_and_charged_with_the_values(tmp_path, privacy):
    scene = make_scene(tmp_path, SMALL)
    counted = msgspec.structs.replace(privacy, clip_norm=1e6, count_noise_multiplier=1e-9)
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=1e30)) as (server, config, _), running(config):
        await server.state()
        plan = private_plan(scene, 1, counted)
        await server.publish_plan(plan)
        update, _ = await server.update(1)
    book = read_ledger(config.state)
    if privacy == DEVICE_WIDE:
        assert update.within == pytest.approx(1.0)
    else:  # how many of the 40 examples were drawn
        drawn = (update.within - 0.5) * plan.batch_size * 2
        assert drawn == pytest.approx(round(drawn), abs=1e-4)
        assert 0 < round(drawn) < 40
    (release,) = book.last.charge.releases
    assert release.noise_multiplier == pytest.approx(1e-9)


@pytest.mark.parametrize("privacy", [RECORD, SCORED, DEVICE_WIDE], ids=["record", "scored", "device"])
async def test_a_round_beyond_the_owners_cap_is_declined_and_costs_nothing(tmp_path, privacy):
    scene = make_scene(tmp_path, SMALL)
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=0.01)) as (server, config, asked), running(config):
        await server.state()
        await server.publish_plan(private_plan(scene, 1, privacy))
        said, _ = await server.payload(1)
    assert messages.decode(said, messages.Decline).cause == "budget-spent"
    assert read_ledger(config.state).count == 0
    assert not any(path.endswith(scene.model) for path in asked)


async def test_a_ledger_that_was_rolled_back_keeps_the_device_out(tmp_path):
    scene = make_scene(tmp_path, SMALL)
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=1000.0)) as (server, config, _):
        Ledger(config.state, config.privacy).charge(None, Charge(RUN, 1, "training", (GaussianReleases(1.0, 0.5, 3),)))
        (config.state / "ledger").unlink()
        async with running(config):
            await server.state()
            await server.publish_plan(private_plan(scene, 1, RECORD))
            said, _ = await server.payload(1)
    assert messages.decode(said, messages.Decline).cause == "budget-spent"


async def test_a_device_for_private_runs_only_takes_no_part_in_others_and_keeps_its_size_to_itself(tmp_path):
    scene = make_scene(tmp_path, SMALL)
    async with surroundings(scene, tmp_path, privacy=Cap(private_only=True)) as (server, config, _), running(config):
        assert (await server.state()).examples == 0
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        said, _ = await server.payload(1)
    assert messages.decode(said, messages.Decline).cause == "not-private"
    assert not (config.state / "ledger").exists()


@pytest.mark.parametrize("privacy", [RECORD, SCORED, DEVICE_WIDE], ids=["record", "scored", "device"])
@pytest.mark.parametrize("label", [99, 3])
async def test_whether_a_label_is_beyond_the_model_is_not_told(tmp_path, privacy, label):
    """A server could give models of few classes to learn who has a record of another."""
    scene = make_scene(tmp_path, SMALL)
    np.savez(tmp_path / "examples.npz", x=scene.examples.x, y=np.full(len(scene.examples), label))
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=1000.0)) as (server, config, _), running(config):
        await server.state()
        plan = private_plan(scene, 1, privacy)
        await server.publish_plan(plan)
        update, _ = await server.update(1)
    noise = noise_in(scene, plan, update, from_bitmaps(scene.layout, update.kept))
    assert stats.kstest(noise, stats.norm(0, privacy.noise_multiplier * privacy.clip_norm).cdf).pvalue > 1e-4


async def test_neurons_chosen_by_true_scores_are_chosen_again_where_the_run_turns_private(tmp_path):
    scene = make_scene(tmp_path, SMALL)
    async with surroundings(scene, tmp_path, privacy=Cap(epsilon=1000.0)) as (server, config, _), running(config):
        await server.state()
        await server.publish_plan(scene.plan(1, scene.model, "float32"))
        _, digest = await server.update(1)
        await server.send_receipt(1, digest)
        await server.publish_plan(private_plan(scene, 2, RECORD))
        update, _ = await server.update(2)
    assert update.kept
    assert read_ledger(config.state).count == 1


def test_the_owner_sees_what_was_spent(tmp_path, capsys):
    config = tmp_path / "device.toml"
    config.write_text(
        f'device = "{DEVICE}"\nbroker = "mqtt://b"\nserver = "http://s"\ndata = "d.npz"\n[privacy]\nepsilon = 3\n'
    )
    Ledger(tmp_path / "state", Cap()).charge(None, Charge(RUN, 1, "training", (GaussianReleases(1.0, 0.1, 10),)))
    assert main(["privacy", "status", "--config", str(config), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert json.dumps(said).count(RUN) > 0
