"""Rounds of the whole service against a real broker, with devices whose training is a known difference."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import numpy as np
import pytest

from server.config import ServiceSettings
from server.resync import encode_model
from wire_protocol import chunking, messages, tensor_codec
from wire_protocol.device_state import DeviceState
from wire_protocol.envelope import Context, sign
from wire_protocol.identity import new_identity
from wire_protocol.layout import Layout
from wire_protocol.messages import Decline, Message, Need, RoundPlan
from wire_protocol.model_difference import Coding, apply_difference
from wire_protocol.participation import takes_part
from wire_protocol.sub_model import gather, sub_shapes

CHUNK_BYTES = 50


async def test_two_rounds_give_exactly_the_means(
    running: Callable, layout: object, weights: dict, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=2, min_devices=2)
    async with (
        serving(settings) as (service, run, records),
        connected("a") as a,
        connected("b") as b,
    ):
        kept_a, kept_b = keeping(0, 1), keeping(3)
        first = await a.next_plan(1)
        assert (await b.next_plan(1)) == first
        assert first.resync
        assert (await a.send(first, a.update(first, kept_a, 0.5, examples=1))).accepted
        assert (await b.send(first, b.update(first, kept_b, 0.25, examples=3))).accepted

        after_first = {name: array.copy() for name, array in weights.items()}
        after_first["w1"] += np.array([[0.5], [0.5], [0], [0.25]], dtype=np.float32)
        after_first["b1"] += np.array([0.5, 0.5, 0, 0.25], dtype=np.float32)
        after_first["w2"] += np.array([0.5, 0.5, 0, 0.25], dtype=np.float32)
        after_first["b2"] += np.float32(0.3125)

        second = await a.next_plan(2)
        assert (second.resync_round, second.model_version) == (1, 1)
        for device, kept in ((a, kept_a), (b, kept_b)):
            received = await device.slices.get()
            codec = tensor_codec.Codec(received.precision)
            values = tensor_codec.decode(received.values, sub_shapes(layout, kept.widths), codec)
            for name, array in gather(layout, kept, after_first).items():
                np.testing.assert_array_equal(values[name], array)
        assert (await a.send(second, a.update(second, kept_a, -1.0, examples=1))).accepted
        assert (await b.send(second, b.update(second, kept_b, 2.0, examples=1))).accepted
        await run

        expected = after_first
        expected["w1"] += np.array([[-1], [-1], [0], [2]], dtype=np.float32)
        expected["b1"] += np.array([-1, -1, 0, 2], dtype=np.float32)
        expected["w2"] += np.array([-1, -1, 0, 2], dtype=np.float32)
        expected["b2"] += np.float32(0.5)
        for name, array in service.latest_parameters().items():
            np.testing.assert_array_equal(array, expected[name])

        while (last := await a.plans.get()) is not None:
            assert last.round == 2
    assert [record.round for record in records] == [1, 2]
    assert service.store.rounds("run") == tuple(records)
    assert [record.kept for record in service.store.devices()] == [{"hidden": 2}, {"hidden": 1}]
    service.store.close()


def signed_size(message: Message, kind: str) -> int:
    return len(sign(messages.encode(message), Context(kind, "fleet"), [new_identity()]))


async def test_the_account_of_a_round(
    settings: ServiceSettings, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    async with serving(settings) as (service, run, records), connected("a") as a:
        plan = await a.next_plan(1)
        async with httpx.AsyncClient(base_url=service.http_url) as http:
            model = (await http.get(f"/api/v1/models/{plan.model}")).content
            manifest = (await http.get(f"/api/v1/bundles/{plan.bundle}/manifest.json")).content
        payload = a.update(plan, keeping(0, 1), 0.5)
        receipt = await a.send(plan, payload)
        await run
    (record,) = records
    announcement = messages.encode(chunking.manifest_of(payload, CHUNK_BYTES))
    state = messages.encode(DeviceState(online=True, examples=12, runtime="scripted", client="0"))
    chunks = chunking.manifest_of(payload, CHUNK_BYTES).chunk_count
    need = Need(run="run", round=1, missing=tuple(range(chunks)))
    signed = (signed_size(plan, "plan"), signed_size(receipt, "receipt"), signed_size(need, "need"))
    assert record.bytes_up == len(payload) + len(announcement) + len(state)
    assert record.bytes_down == len(model) + len(manifest) + sum(signed)
    assert (record.bytes_up_dense, record.bytes_down_dense) == (4 * 26, 4 * 26)
    assert (record.trained_macs, record.scored_macs, record.full_macs) == (3 * 10 * 40, 3 * 20 * 3, 3 * 20 * 40)
    assert (record.updates_accepted, record.updates_rejected, record.model_version) == (1, 0, 1)
    assert 0 <= record.accuracy <= 1


async def test_a_device_that_goes_offline_is_not_waited_for(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    async with serving(settings) as (_, run, records), connected("a") as a:
        async with connected("b") as b:
            plan = await b.next_plan(1)
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
            assert not run.done()
        await run
    assert records[0].updates_accepted == 1


async def test_a_round_without_updates_is_extended(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(round_seconds=0.3)
    async with serving(settings) as (_, run, records), connected("a") as a:
        plan = await a.next_plan(1)
        extended = await a.next_plan(1)
        assert extended.deadline > plan.deadline
        assert (await a.send(extended, a.update(extended, keeping(0), 0.5))).accepted
        await run
    assert records[0].updates_accepted == 1


def declining(plan: RoundPlan, cause: str = "training") -> bytes:
    return messages.encode(Decline(run=plan.run, round=plan.round, cause=cause))


async def test_a_device_that_declines_is_not_waited_for(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    async with serving(settings) as (_, run, records), connected("a") as a, connected("b") as b:
        plan = await a.next_plan(1)
        refused = await b.send(plan, b.sealed(plan, declining(plan)))
        assert not refused.accepted
        assert "training failed on the device" in refused.reason
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        await run
    assert (records[0].updates_accepted, records[0].updates_rejected) == (1, 1)


async def test_when_all_decline_a_new_round_gives_another_chance(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(round_seconds=0.3)
    async with serving(settings) as (service, run, records), connected("a") as a:
        first = await a.next_plan(1)
        assert not (await a.send(first, a.sealed(first, declining(first, "internal")))).accepted
        second = await a.next_plan(2)
        assert (second.resync_round, second.model_version, second.model) == (1, 0, first.model)
        assert (await a.send(second, a.update(second, keeping(0), 0.5))).accepted
        await run
        assert service.store.rounds("run") == tuple(records)
    assert [(record.round, record.model_version) for record in records] == [(2, 1)]


async def test_a_resync_sends_no_slices(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=2, resync_every=1)
    async with serving(settings) as (_, run, records), connected("a") as a:
        for number in (1, 2):
            plan = await a.next_plan(number)
            assert plan.resync
            payload = a.update(plan, keeping(0), 0.5)
            receipt = await a.send(plan, payload)
        await run
    need = Need(run="run", round=2, missing=tuple(range(chunking.manifest_of(payload, CHUNK_BYTES).chunk_count)))
    signed = (signed_size(plan, "plan"), signed_size(receipt, "receipt"), signed_size(need, "need"))
    assert records[1].bytes_down == sum(signed)
    assert a.slices.empty()


async def test_a_resync_offers_the_difference_from_the_last_and_a_restart_the_same(
    running: Callable, layout: Layout, weights: dict, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=4, resync_every=2, difference="int8")
    shapes, float16 = sub_shapes(layout, layout.group_sizes), tensor_codec.Codec("float16")
    content: dict[str, bytes] = {}

    async def fetch(url: str, plan: RoundPlan) -> None:
        paths = [f"models/{plan.model}", *(f"differences/{one.sha256}" for one in plan.differences)]
        async with httpx.AsyncClient(base_url=url) as http:
            content.update({path: (await http.get(f"/api/v1/{path}")).raise_for_status().content for path in paths})

    async with connected("a") as a:
        async with serving(settings) as (service, _, _):
            for number in (1, 2):
                plan = await a.next_plan(number)
                assert plan.differences == ()
                await fetch(service.http_url, plan)
                assert (await a.send(plan, a.update(plan, keeping(0), 0.1))).accepted
            third = await a.next_plan(3)
            await fetch(service.http_url, third)
        fetched = dict(content)
        async with serving(settings) as (service, run, _):
            content.clear()
            assert await a.next_plan(3) == third
            await fetch(service.http_url, third)
            assert content.items() <= fetched.items()
            assert (await a.send(third, a.update(third, keeping(0), 0.1))).accepted
            fourth = await a.next_plan(4)
            assert fourth.differences == ()
            assert (await a.send(fourth, a.update(fourth, keeping(0), 0.1))).accepted
            await run
    (offer,) = third.differences
    base = next(body for path, body in fetched.items() if path == f"models/{offer.base}")
    assert base == encode_model(layout, weights, "float16")
    coding = Coding(shapes, float16, tensor_codec.Codec("int8"))
    difference = fetched[f"differences/{offer.sha256}"]
    assert len(difference) == offer.size
    whole = apply_difference(difference, tensor_codec.decode(base, shapes, float16), coding)
    assert whole == fetched[f"models/{third.model}"]
    np.testing.assert_allclose(tensor_codec.decode(whole, shapes, float16)["w1"][0], weights["w1"][0] + 0.2, atol=2e-3)


async def test_without_differences_every_model_is_whole(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=2, resync_every=1, difference="off")
    async with serving(settings) as (_, run, _), connected("a") as a:
        for number in (1, 2):
            plan = await a.next_plan(number)
            assert (plan.resync, plan.differences) == (True, ())
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        await run


async def test_a_round_below_its_quorum_is_prolonged(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(quorum=2, round_seconds=0.3)
    async with serving(settings) as (_, run, records), connected("a") as a:
        plan = await a.next_plan(1)
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        prolonged = await a.next_plan(1)
        assert prolonged.deadline > plan.deadline
        assert not records
        async with connected("b") as b:
            assert (await b.send(prolonged, b.update(prolonged, keeping(1), 0.5))).accepted
            await run
    assert records[0].updates_accepted == 2


async def test_devices_that_do_not_belong_to_the_fleet_are_not_waited_for(
    settings: ServiceSettings, fleet: Any, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    fleet.enrol("a", "b", revoked="b")
    async with serving(settings) as (service, run, records), connected("b"), connected("c"), connected("a") as a:
        plan = await a.next_plan(1)
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        await run
        assert [device.id for device in service.store.devices()] == ["a"]
    assert records[0].updates_accepted == 1


async def test_a_device_revoked_in_the_middle_of_a_round_is_not_waited_for(
    running: Callable, fleet: Any, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    async with serving(settings) as (_, run, records), connected("b") as b, connected("a") as a:
        plan = await b.next_plan(1)
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        fleet.enrol("a", "b", revoked="b")
        await run
    assert records[0].updates_accepted == 1


async def test_an_update_of_a_revoked_device_is_refused(
    running: Callable, fleet: Any, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    async with serving(settings) as (_, run, records), connected("b") as b, connected("a") as a:
        plan = await b.next_plan(1)
        fleet.enrol("a", "b", revoked="b")
        assert "revoked" in (await b.send(plan, b.update(plan, keeping(1), 9.0))).reason
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        await run
    assert records[0].updates_accepted == 1


async def test_a_round_waits_for_those_drawn_only_and_refuses_the_others(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    seed = next(seed for seed in range(100) if takes_part(0.5, seed, 1, "a") and not takes_part(0.5, seed, 1, "b"))
    settings = running(rounds=1, min_devices=2, participation=0.5, participation_seed=seed)
    async with serving(settings) as (_, run, records), connected("a") as a, connected("b") as b:
        plan = await a.next_plan(1)
        assert (plan.draws("a"), plan.draws("b")) == (True, False)
        refused = await b.send(plan, b.update(plan, keeping(0, 1), 1.0, examples=1))
        assert (refused.accepted, refused.reason) == (False, "device b was not drawn for round 1 (participation 0.5)")
        assert (await a.send(plan, a.update(plan, keeping(0, 1), 1.0, examples=1))).accepted
        await run
    assert (records[0].updates_accepted, records[0].updates_rejected) == (1, 1)


async def test_a_quorum_that_is_hardly_ever_drawn_is_warned_of_once(
    running: Callable, connected: Callable, serving: Callable, caplog: pytest.LogCaptureFixture
) -> None:
    settings = running(min_devices=2, quorum=3, participation=1e-9)
    async with serving(settings), connected("a"), connected("b"):
        while "no round opens" not in caplog.text:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.6)
    (warning,) = [record.message for record in caplog.records if "no round opens" in record.message]
    assert "drew 2 of the 2 devices online (quorum 3, participation 1e-09)" in warning
