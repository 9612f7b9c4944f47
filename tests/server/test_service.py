"""The whole service against a real broker, with devices that follow a script: their training is a known difference."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiomqtt
import httpx
import numpy as np
import pytest

from server.bundle import open_bundle
from server.config import RunConfig, ServiceSettings
from server.errors import AddressError, ServerError, StorageError
from server.records import DeviceRecord, RoundRecord, UpdateRecord
from server.service import Service
from server.storage import Store
from wire_protocol import chunking, messages, tensor_codec, topics
from wire_protocol.examples import Examples, ExamplesError
from wire_protocol.messages import Decline, DeviceState, Receipt, RoundPlan
from wire_protocol.sub_model import gather, sub_shapes
from wire_protocol.topics import Part

CHUNK_BYTES = 50
PATIENCE = 20.0


@pytest.fixture
def settings(broker: Any, bundle_folder: Path, tmp_path: Path) -> ServiceSettings:
    test = Examples(np.eye(3, dtype=np.float32), np.array([0, 1, 0]))
    run = RunConfig(rounds=1, resync_every=2, min_devices=1, local_steps=5, batch_size=8, round_seconds=60)
    return ServiceSettings(
        bundle=bundle_folder,
        state=tmp_path / "state",
        broker=broker.url,
        port=0,
        test=test,
        run=run,
        chunk_bytes=CHUNK_BYTES,
    )


def running(settings: ServiceSettings, **changes: object) -> ServiceSettings:
    return replace(settings, run=replace(settings.run, **changes))


@asynccontextmanager
async def serving(settings: ServiceSettings) -> AsyncIterator[tuple[Service, asyncio.Task[None], list[RoundRecord]]]:
    records: list[RoundRecord] = []
    async with asyncio.timeout(PATIENCE), Service(settings, records.append) as service:
        run = asyncio.create_task(service.run())
        try:
            yield service, run, records
        finally:
            run.cancel()
            await asyncio.gather(run, return_exceptions=True)


async def test_two_rounds_give_exactly_the_means(
    settings: ServiceSettings, layout: object, weights: dict, connected: Callable, keeping: Callable
) -> None:
    settings = running(settings, rounds=2, min_devices=2)
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
            values = tensor_codec.decode(
                received.values, sub_shapes(layout, kept.widths), tensor_codec.Codec(received.precision)
            )
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


async def test_the_account_of_a_round(settings: ServiceSettings, connected: Callable, keeping: Callable) -> None:
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
    assert record.bytes_up == len(payload) + len(announcement) + len(state)
    assert record.bytes_down == len(model) + len(manifest) + len(messages.encode(plan)) + len(messages.encode(receipt))
    assert (record.bytes_up_dense, record.bytes_down_dense) == (4 * 26, 4 * 26)
    assert (record.trained_macs, record.scored_macs, record.full_macs) == (3 * 10 * 40, 3 * 20 * 3, 3 * 20 * 40)
    assert (record.updates_accepted, record.updates_rejected, record.model_version) == (1, 0, 1)
    assert 0 <= record.accuracy <= 1


async def test_a_duplicate_is_counted_once_and_a_conflict_refused(
    settings: ServiceSettings, weights: dict, connected: Callable, keeping: Callable
) -> None:
    settings = running(settings, min_devices=2)
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
        assert len(service.store.updates("run")) == 2
    assert (records[0].updates_accepted, records[0].updates_rejected) == (2, 1)


async def test_lost_chunks_are_asked_for(settings: ServiceSettings, connected: Callable, keeping: Callable) -> None:
    async with serving(settings) as (_, run, _records), connected("a") as a:
        plan = await a.next_plan(1)
        payload = a.update(plan, keeping(0, 1), 0.5)
        await a.announce(plan, payload)
        await a.send_chunks(plan, payload, 0, 2)
        await a.announce(plan, payload)
        need = await a.needs.get()
        everything = set(range(chunking.manifest_of(payload, CHUNK_BYTES).chunk_count))
        assert set(need.missing) == everything - {0, 2}
        await a.send_chunks(plan, payload, *need.missing)
        assert (await a.receipts.get()).accepted
        await run


async def test_refusals_reach_the_device(settings: ServiceSettings, connected: Callable, keeping: Callable) -> None:
    settings = running(settings, rounds=2)
    async with serving(settings) as (_, run, records), connected("a") as a:
        first = await a.next_plan(1)
        garbage = await a.send(first, b"garbage" * 20)
        assert not garbage.accepted
        assert "not a valid Update" in garbage.reason
        huge = await a.send(first, bytes(10_000))
        assert "10000 bytes, expected at most" in huge.reason
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


async def test_a_device_that_goes_offline_is_not_waited_for(
    settings: ServiceSettings, connected: Callable, keeping: Callable
) -> None:
    settings = running(settings, min_devices=2)
    async with serving(settings) as (_, run, records), connected("a") as a:
        async with connected("b") as b:
            plan = await b.next_plan(1)
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
            assert not run.done()
        await run
    assert records[0].updates_accepted == 1


async def test_a_round_without_updates_is_extended(
    settings: ServiceSettings, connected: Callable, keeping: Callable
) -> None:
    settings = running(settings, round_seconds=0.3)
    async with serving(settings) as (_, run, records), connected("a") as a:
        plan = await a.next_plan(1)
        extended = await a.next_plan(1)
        assert extended.deadline > plan.deadline
        assert (await a.send(extended, a.update(extended, keeping(0), 0.5))).accepted
        await run
    assert records[0].updates_accepted == 1


async def test_the_plan_is_published_again_after_the_broker_died(
    settings: ServiceSettings, broker: Any, connected: Callable, keeping: Callable
) -> None:
    async with serving(settings) as (_, run, records):
        async with connected("a") as a:
            plan = await a.next_plan(1)
            broker.kill()
        broker.start()
        async with connected("a") as a:
            assert await a.next_plan(1) == plan
            payload = a.update(plan, keeping(0), 0.5)
            while not a.receipts.qsize():
                await a.announce(plan, payload)
                await a.send_chunks(plan, payload)
                await asyncio.sleep(0.1)
            assert (await a.receipts.get()).accepted
            await run
    assert records[0].updates_accepted == 1


async def test_other_runs_and_bad_messages_are_left_alone(
    settings: ServiceSettings, connected: Callable, keeping: Callable
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


async def test_a_restarted_service_goes_on_after_its_last_closed_round(
    settings: ServiceSettings, weights: dict, connected: Callable, keeping: Callable
) -> None:
    settings = running(settings, rounds=2, min_devices=2, resync_every=10)
    async with connected("a") as a, connected("b") as b:
        async with serving(settings):
            plan = await a.next_plan(1)
            for device in (a, b):
                assert (await device.send(plan, device.update(plan, keeping(0), 0.5))).accepted
            plan = await a.next_plan(2)
            assert not plan.resync
            assert (await a.send(plan, a.update(plan, keeping(0), 8.0))).accepted
        async with serving(settings) as (service, run, records):
            assert [record.round for record in service.store.rounds("run")] == [1]
            again = await a.next_plan(3)
            assert (again.resync, again.model_version) == (True, 1)
            for device in (a, b):
                assert (await device.send(again, device.update(again, keeping(1), 0.25))).accepted
            await run
            np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [0.5, 0.25, 0, 0])
            assert [(record.round, record.model_version) for record in records] == [(3, 2)]
            counted = [(update.round, update.device) for update in service.store.updates("run")]
            assert counted == [(1, "a"), (1, "b"), (3, "a"), (3, "b")]
        async with serving(settings) as (service, run, records):
            await run
            np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [0.5, 0.25, 0, 0])
    assert records == []


async def test_without_a_broker_it_waits_and_stops_cleanly(settings: ServiceSettings, broker: Any) -> None:
    broker.kill()
    async with serving(settings) as (service, run, _):
        async with httpx.AsyncClient(base_url=service.http_url) as http:
            assert (await http.get("/health")).json() == {"status": "ok", "broker": "disconnected"}
        assert not run.done()
    with pytest.raises(ServerError, match="not started"):
        _ = service.http_url


async def test_a_port_in_use_is_named(settings: ServiceSettings) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(AddressError, match=f"cannot listen on 127.0.0.1 port {port}"):
            await Service(replace(settings, port=port)).run()


def test_test_examples_must_fit_the_model(settings: ServiceSettings) -> None:
    with pytest.raises(ExamplesError, match="expected labels from 0 to 1"):
        Service(replace(settings, test=Examples(np.zeros((1, 3), np.float32), np.array([2]))))


def test_a_run_of_another_bundle_is_not_gone_on_with(settings: ServiceSettings) -> None:
    first = Service(settings)
    first.store.close()
    manifest = settings.bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"tiny"', b'"other"'))
    assert open_bundle(settings.bundle).manifest.model == "other"
    with pytest.raises(StorageError, match="was started with bundle"):
        Service(settings)


def declining(plan: RoundPlan, cause: str = "training") -> bytes:
    return messages.encode(Decline(run=plan.run, round=plan.round, cause=cause))


async def test_a_device_that_declines_is_not_waited_for(
    settings: ServiceSettings, connected: Callable, keeping: Callable
) -> None:
    settings = running(settings, min_devices=2)
    async with serving(settings) as (_, run, records), connected("a") as a, connected("b") as b:
        plan = await a.next_plan(1)
        refused = await b.send(plan, declining(plan))
        assert not refused.accepted
        assert "training failed on the device" in refused.reason
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        await run
    assert (records[0].updates_accepted, records[0].updates_rejected) == (1, 1)


async def test_when_all_decline_a_new_round_gives_another_chance(
    settings: ServiceSettings, connected: Callable, keeping: Callable
) -> None:
    settings = running(settings, round_seconds=0.3)
    async with serving(settings) as (service, run, records), connected("a") as a:
        first = await a.next_plan(1)
        assert not (await a.send(first, declining(first, "internal"))).accepted
        second = await a.next_plan(2)
        assert (second.resync_round, second.model_version, second.model) == (1, 0, first.model)
        assert (await a.send(second, a.update(second, keeping(0), 0.5))).accepted
        await run
        assert service.store.rounds("run") == tuple(records)
    assert [(record.round, record.model_version) for record in records] == [(2, 1)]


async def test_a_failure_after_counting_does_not_count_twice(
    settings: ServiceSettings, weights: dict, connected: Callable, keeping: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = running(settings, min_devices=2)
    async with serving(settings) as (service, run, records), connected("a") as a, connected("b") as b:
        failures = []

        def full_disk(*arguments: object) -> None:
            failures.append(arguments)
            raise StorageError("the disk is full")

        monkeypatch.setattr(service.store, "save_kept", full_disk)
        plan = await a.next_plan(1)
        payload = a.update(plan, keeping(0), 1.0)
        await a.announce(plan, payload)
        await a.send_chunks(plan, payload)
        while not failures:
            await asyncio.sleep(0.01)
        assert (await a.send(plan, payload)).accepted
        assert len(failures) == 1
        monkeypatch.undo()
        assert (await b.send(plan, b.update(plan, keeping(0), 0.0))).accepted
        await run
        np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [0.5, 0, 0, 0])
    assert records[0].updates_accepted == 2


async def test_a_state_that_cannot_be_written_ends_nothing(
    settings: ServiceSettings, connected: Callable, keeping: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings) as (service, run, _):

        def locked(*arguments: object) -> None:
            raise StorageError("database is locked")

        monkeypatch.setattr(service.store, "save_device", locked)
        async with connected("a") as a:
            plan = await a.next_plan(1)
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
            await run


async def test_while_the_next_round_opens_the_last_one_takes_no_more(
    settings: ServiceSettings, connected: Callable, keeping: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = running(settings, rounds=2)
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


async def test_a_resync_sends_no_slices(settings: ServiceSettings, connected: Callable, keeping: Callable) -> None:
    settings = running(settings, rounds=2, resync_every=1)
    async with serving(settings) as (_, run, records), connected("a") as a:
        for number in (1, 2):
            plan = await a.next_plan(number)
            assert plan.resync
            payload = a.update(plan, keeping(0), 0.5)
            receipt = await a.send(plan, payload)
        await run
    sent = len(messages.encode(plan)) + len(messages.encode(receipt))
    assert records[1].bytes_down == sent
    assert a.slices.empty()


async def test_an_update_that_is_whole_only_after_its_round_closed_is_not_counted(
    settings: ServiceSettings, broker: Any, connected: Callable, keeping: Callable
) -> None:
    settings = running(settings, rounds=2, min_devices=2)
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
            await replace(b, client=client).send_chunks(plan, late)
            receipt = messages.decode((await anext(client.messages)).payload, Receipt)
        assert "round 1 is not open" in receipt.reason
        assert [update.device for update in service.store.updates("run")] == ["a"]


async def test_an_update_that_the_database_holds_another_of_is_refused(
    settings: ServiceSettings, connected: Callable, keeping: Callable
) -> None:
    async with serving(settings) as (service, run, records), connected("a") as a:
        plan = await a.next_plan(1)
        service.store.count_update(UpdateRecord("run", 1, "a", bytes(32)))
        receipt = await a.send(plan, a.update(plan, keeping(0), 0.5))
        assert "another update of this device was counted" in receipt.reason
        assert not run.done()
        assert records == []


def test_nobody_is_taken_for_online_at_the_start(settings: ServiceSettings) -> None:
    store = Store(settings.state)
    store.save_device(DeviceRecord("a", True, 1, "", "", 0.0))
    service = Service(settings)
    assert not store.devices()[0].online
    service.store.close()
    store.close()
