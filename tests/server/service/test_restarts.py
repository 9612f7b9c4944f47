"""The whole service when a broker or a server stops and comes back, and what keeps it from starting."""

import os
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from server.bundle import open_bundle
from server.clocks import Clocks
from server.config import ServiceSettings
from server.errors import AddressError, ServerError, StorageError
from server.records import DeviceRecord
from server.service import Service
from server.storage import Store
from wire_protocol import messages
from wire_protocol.examples import Examples, ExamplesError
from wire_protocol.identity import IdentityError
from wire_protocol.messages import Decline

CHUNK_BYTES = 50


async def test_the_plan_is_published_again_after_the_broker_died(
    settings: ServiceSettings, broker: Any, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    async with serving(settings) as (_, run, records):
        async with connected("a") as a:
            plan = await a.next_plan(1)
            broker.kill()
        broker.start()
        async with connected("a") as a:
            assert await a.next_plan(1) == plan
            payload = a.update(plan, keeping(0), 0.5)
            assert (await a.send(plan, payload, again_after=0.1)).accepted
            await run
    assert records[0].updates_accepted == 1


async def test_a_stopped_service_goes_on_with_the_round_that_was_open(
    running: Callable, weights: dict, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=2, min_devices=2, resync_every=10)
    async with connected("a") as a, connected("b") as b:
        async with serving(settings):
            plan = await a.next_plan(1)
            for device in (a, b):
                assert (await device.send(plan, device.update(plan, keeping(0), 0.5))).accepted
            second = await a.next_plan(2)
            assert not second.resync
            early = a.update(second, keeping(0), 1.0)
            receipt = await a.send(second, early)
            assert receipt.accepted
            await b.slices.get()
        assert a.plans.empty()
        async with serving(settings) as (service, run, records):
            assert await a.next_plan(2) == second
            assert await a.send(second, early) == receipt
            conflict = await a.send(second, a.update(second, keeping(0), 64.0))
            assert "another update" in conflict.reason
            assert (await b.slices.get()).round == 2
            assert not records
            assert (await b.send(second, b.update(second, keeping(1), 0.25))).accepted
            await run
            np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [1.5, 0.25, 0, 0])
            counted = [(update.round, update.device) for update in service.store.updates.of_run("run")]
            assert counted == [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
        assert [(record.round, record.updates_accepted, record.updates_rejected) for record in records] == [(2, 2, 1)]
        async with serving(settings) as (service, run, records):
            await run
            np.testing.assert_array_equal(service.latest_parameters()["b1"], weights["b1"] + [1.5, 0.25, 0, 0])
    assert records == []
    assert list((settings.state / "spool" / "run").iterdir()) == []
    assert len(list((settings.state / "models" / "run").iterdir())) == 2


async def test_neurons_are_chosen_as_often_after_a_restart(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(rounds=3, resync_every=2)
    async with connected("a") as a:
        async with serving(settings):
            plan = await a.next_plan(1)
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
            assert not (await a.next_plan(2)).resync
        async with serving(settings):
            second = await a.next_plan(2)
            assert (await a.send(second, a.update(second, keeping(0), 0.5))).accepted
            assert (await a.next_plan(3)).resync


async def test_a_refusal_stands_after_a_restart(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    async with connected("a") as a, connected("b") as b:
        async with serving(settings):
            plan = await a.next_plan(1)
            decline = b.sealed(plan, messages.encode(Decline(run="run", round=1, cause="data")))
            receipt = await b.send(plan, decline)
        async with serving(settings) as (_, run, records):
            assert await b.send(plan, decline) == receipt
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
            await run
    assert [(record.updates_accepted, record.updates_rejected) for record in records] == [(1, 1)]


async def test_a_deadline_that_is_past_is_prolonged_on_restart(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2, round_seconds=2.0)
    async with connected("a") as a, connected("b") as b:
        async with serving(settings):
            plan = await a.next_plan(1)
            assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        later = Clocks(wall=lambda: time.time() + 3600)
        async with serving(settings, later) as (_, run, records):
            prolonged = await b.next_plan(1)
            while prolonged == plan:
                prolonged = await b.next_plan(1)
            assert prolonged == msgspec.structs.replace(plan, deadline=prolonged.deadline)
            assert prolonged.deadline > plan.deadline + 3000
            assert (await b.send(prolonged, b.update(prolonged, keeping(1), 0.5))).accepted
            await run
    assert records[0].updates_accepted == 2


async def test_after_a_kill_the_next_round_expects_those_that_were_online(
    running: Callable, connected: Callable, keeping: Callable, serving: Callable
) -> None:
    settings = running(min_devices=2)
    store = Store(settings.state)
    store.save_devices([DeviceRecord(name, True, 1, "", "", 0.0) for name in ("a", "b", "stranger")])
    store.close()
    async with serving(settings) as (service, run, records), connected("a") as a:
        plan = await a.next_plan(1)
        assert service.store.opening("run").expected == {"a", "b"}
        assert (await a.send(plan, a.update(plan, keeping(0), 0.5))).accepted
        assert not run.done()
        async with connected("b") as b:
            assert (await b.send(plan, b.update(plan, keeping(0), 0.5))).accepted
            await run
    assert records[0].updates_accepted == 2


async def test_after_a_clean_stop_nobody_is_taken_for_online(settings: ServiceSettings, serving: Callable) -> None:
    store = Store(settings.state)
    store.save_devices([DeviceRecord("a", True, 1, "", "", 0.0)])
    async with serving(settings):
        assert store.devices()[0].online
    assert not store.devices()[0].online
    store.close()


def test_a_second_server_on_the_same_state_folder_is_refused(settings: ServiceSettings) -> None:
    first = Service(settings)
    with pytest.raises(StorageError, match=rf"in use by another server \(process {os.getpid()}\)"):
        Service(settings)
    first.close()
    Service(settings).close()


def test_without_a_fleet_the_command_that_makes_one_is_named(settings: ServiceSettings, tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=f"fisherfleet fleet init {tmp_path / 'nowhere'}"):
        Service(replace(settings, fleet=tmp_path / "nowhere"))


async def test_without_a_broker_it_waits_and_stops_cleanly(
    settings: ServiceSettings, broker: Any, serving: Callable
) -> None:
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
    first.close()
    manifest = settings.bundle / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b'"tiny"', b'"other"'))
    assert open_bundle(settings.bundle).manifest.model == "other"
    with pytest.raises(StorageError, match="was started with bundle"):
        Service(settings)


def test_the_newest_unfinished_run_of_the_bundle_is_gone_on_with(running: Callable) -> None:
    def name_of(run: str, **changes: Any) -> str:
        service = Service(replace(running(run=run, **changes), goes_on=True))
        service.close()
        return service.run_name

    assert [name_of("first"), name_of("second"), name_of("third", rounds=9)] == ["first"] * 3
    store = Store(running().state)
    assert store.orders.move("first", ("running",), "stopped")
    store.close()
    assert [name_of("fourth"), name_of("fifth")] == ["fourth"] * 2
