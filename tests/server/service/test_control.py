"""Orders to the runs of a service: several runs in turns, each order durable, one failing run alone."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from server.config import ServiceSettings
from server.control import Control
from server.errors import ConflictError, UnknownRunError
from server.records import RunRecord
from server.runs import Runs
from server.service import Service
from tests.patience import PATIENCE
from wire_protocol import messages, topics
from wire_protocol.envelope import Context, sign
from wire_protocol.errors import InvalidValueError

CONFIG = {
    "precision": "float16",
    "privacy": "none",
    "keep": 1.0,
    "local_steps": 5,
    "batch_size": 8,
    "resync_every": 10,
    "rounds": 3,
}


@pytest.fixture
def orders(settings: ServiceSettings) -> ServiceSettings:
    """Of a service that waits for orders."""
    return replace(settings, bundle=None, test=None)


@asynccontextmanager
async def waiting(settings: ServiceSettings) -> AsyncIterator[Service]:
    async with asyncio.timeout(PATIENCE), Service(settings) as service:
        serving = asyncio.create_task(service.run())
        try:
            yield service
            assert not serving.done()
        finally:
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)


async def until(service: Service, run: str, status: str) -> RunRecord:
    while (record := service.store.run(run)).status != status:
        await asyncio.sleep(0.01)
    return record


async def plan_of(device: Any, run: str, number: int) -> Any:
    while True:
        plan = await device.plans.get()
        if plan is not None and (plan.run, plan.round) == (run, number):
            return plan


async def answer(device: Any, plan: Any, keeping: Callable) -> None:
    assert (await device.send(plan, device.update(plan, keeping(0), 0.5), again_after=0.2)).accepted


async def one_run(control: Control, bundle: Path, **changes: object) -> None:
    await control.create("one", await control.add_bundle(bundle), CONFIG | changes)
    await control.start("one")


async def both_runs(control: Control, bundle: Path, **changes: object) -> None:
    identifier = await control.add_bundle(bundle)
    for run in ("one", "two"):
        await control.create(run, identifier, CONFIG | changes)
    for run in ("one", "two"):
        await control.start(run)


async def test_runs_take_turns_a_round_each_and_the_service_goes_on_after_both(
    orders: ServiceSettings, bundle_folder: Path, connected: Callable, keeping: Callable, weights: dict
) -> None:
    turns = []
    async with waiting(orders) as service, connected("a") as a:
        await both_runs(service.control, bundle_folder)
        while len(turns) < 6:
            plan = await a.plans.get()
            if plan is not None and (plan.run, plan.round) not in turns:
                turns.append((plan.run, plan.round))
                await answer(a, plan, keeping)
        for run in ("one", "two"):
            assert (await until(service, run, "finished")).rounds_closed == 3
            trained = service.store.rounds(run)
            assert [record.updates_accepted for record in trained] == [1, 1, 1]
        late = await a.send(plan, a.update(plan, keeping(0), 9.0), again_after=0.2)
        assert "is finished" in late.reason
    first, second = turns[0][0], turns[1][0]
    assert {first, second} == {"one", "two"}
    assert turns == [(run, number) for number in (1, 2, 3) for run in (first, second)]


async def test_a_run_that_waits_in_vain_gives_its_turn_up_at_its_deadline_and_loses_nothing(
    orders: ServiceSettings, bundle_folder: Path, connected: Callable, keeping: Callable
) -> None:
    async with waiting(orders) as service, connected("a") as a:
        control = service.control
        identifier = await control.add_bundle(bundle_folder)
        await control.create("one", identifier, CONFIG | {"quorum": 2, "rounds": 1, "round_seconds": 1.0})
        await control.start("one")
        opened = await plan_of(a, "one", 1)
        await answer(a, opened, keeping)
        await control.create("two", identifier, CONFIG | {"rounds": 1})
        await control.start("two")
        await answer(a, await plan_of(a, "two", 1), keeping)
        await until(service, "two", "finished")
        async with connected("b") as b:
            again = await plan_of(b, "one", 1)
            assert again.deadline > opened.deadline
            await answer(b, again, keeping)
            await until(service, "one", "finished")
        assert [update.device for update in service.store.updates.of_run("one")] == ["a", "b"]


async def test_a_paused_run_stays_paused_over_a_restart_and_the_other_has_all_turns(
    orders: ServiceSettings, bundle_folder: Path, connected: Callable, keeping: Callable
) -> None:
    async with connected("a") as a:
        async with waiting(orders) as service:
            await both_runs(service.control, bundle_folder)
            await answer(a, await plan_of(a, "one", 1), keeping)
            assert (await service.control.pause("one")).status == "paused"
            await answer(a, await plan_of(a, "two", 1), keeping)
            assert (await plan_of(a, "two", 2)).round == 2
        async with waiting(orders) as service:
            assert [service.store.run(run).status for run in ("one", "two")] == ["paused", "running"]
            for number in (2, 3):
                await answer(a, await plan_of(a, "two", number), keeping)
            await until(service, "two", "finished")
            assert service.store.run("one").rounds_closed == 1
            await service.control.resume("one")
            await answer(a, await plan_of(a, "one", 2), keeping)


async def test_a_stopped_run_is_over_for_good_and_its_plan_withdrawn(
    orders: ServiceSettings, bundle_folder: Path, connected: Callable, keeping: Callable
) -> None:
    async with connected("a") as a:
        async with waiting(orders) as service:
            control = service.control
            await one_run(control, bundle_folder)
            plan = await plan_of(a, "one", 1)
            assert (await control.stop("one")).status == "stopped"
            assert await a.plans.get() is None
            refused = await a.send(plan, a.update(plan, keeping(0), 0.5), again_after=0.2)
            assert "run one is stopped" in refused.reason
            assert service.store.opening("one") is None
            for order in (control.start, control.pause, control.resume, control.stop, control.resync):
                with pytest.raises(ConflictError, match="run one is stopped: "):
                    await order("one")
        async with waiting(orders) as service:
            assert service.store.run("one").status == "stopped"


async def test_a_plan_that_a_service_killed_at_the_end_of_its_run_left_behind_is_withdrawn(
    orders: ServiceSettings, fleet: Any, bundle_folder: Path, connected: Callable, keeping: Callable
) -> None:
    async with connected("a") as a:
        async with waiting(orders) as service:
            await one_run(service.control, bundle_folder, rounds=1)
            plan = await plan_of(a, "one", 1)
            await answer(a, plan, keeping)
            await until(service, "one", "finished")
        async with asyncio.timeout(PATIENCE):
            context = Context("plan", fleet.public.name, "one")
            signed = sign(messages.encode(plan), context, fleet.operator.identities)
            await a.client.publish(topics.plan("one"), signed, qos=1, retain=True)
            assert await plan_of(a, "one", 1) == plan
        async with waiting(orders):
            assert await a.plans.get() is None


async def test_a_resync_and_a_roll_back_are_made_by_the_next_round(
    orders: ServiceSettings, bundle_folder: Path, connected: Callable, keeping: Callable, weights: dict
) -> None:
    async with connected("a") as a:
        async with waiting(orders) as service:
            control = service.control
            await one_run(control, bundle_folder, rounds=4)
            for number in (1, 2):
                await answer(a, await plan_of(a, "one", number), keeping)
            plan = await plan_of(a, "one", 3)
            assert not plan.resync
            await control.resync("one")
            await control.roll_back("one", 1)
            with pytest.raises(UnknownRunError, match="version 99 of run one is not archived"):
                await control.roll_back("one", 99)
            await answer(a, plan, keeping)
            plan = await plan_of(a, "one", 4)
            assert plan.resync
            assert plan.model_version == 4
            model = service.active.get("one").rounds.parameters
            np.testing.assert_array_equal(model["b1"], weights["b1"] + [0.5, 0, 0, 0])
        async with waiting(orders) as service:
            again = await plan_of(a, "one", 4)
            assert (again.model_version, again.resync) == (4, True)
            model = service.active.get("one").rounds.parameters
            np.testing.assert_array_equal(model["b1"], weights["b1"] + [0.5, 0, 0, 0])


async def test_a_run_that_fails_says_why_and_the_other_goes_on(
    orders: ServiceSettings, bundle_folder: Path, connected: Callable, keeping: Callable
) -> None:
    async with waiting(orders) as service, connected("a") as a:
        control = service.control
        identifier = await control.add_bundle(bundle_folder)
        await control.create("bad", identifier, CONFIG | {"give_up": True})
        await control.create("good", identifier, CONFIG | {"rounds": 1})
        await control.start("bad")
        plan = await plan_of(a, "bad", 1)
        await control.start("good")
        await a.send(plan, a.sealed(plan, b"garbage" * 20), again_after=0.2)
        failed = await until(service, "bad", "failed")
        assert "no device has an update; a: " in failed.reason
        await answer(a, await plan_of(a, "good", 1), keeping)
        await until(service, "good", "finished")
        assert (await control.resume("bad")).status == "running"
        await answer(a, await plan_of(a, "bad", 2), keeping)


async def test_runs_that_cannot_be_opened_fail_alone(orders: ServiceSettings, bundle_folder: Path) -> None:
    async with waiting(orders) as service:
        await both_runs(service.control, bundle_folder)
        record = service.store.run("one")
    (orders.state / "tests").mkdir(exist_ok=True)
    (orders.state / "tests" / "one.npz").write_bytes(b"damaged")
    async with waiting(orders) as service:
        assert "one.npz cannot be read" in service.store.run("one").reason
        assert [host.run for host in service.active] == ["two"]
        (orders.state / "tests" / "one.npz").unlink()
        assert await service.control.resume("one") == replace(record, reason="")


async def test_a_new_run_has_its_own_test_examples_and_a_clone_the_same(
    runs: Runs, bundle_folder: Path, tmp_path: Path
) -> None:
    identifier = await runs.add_bundle(bundle_folder)
    assert await runs.add_bundle(bundle_folder) == identifier
    np.savez(tmp_path / "test.npz", x=np.eye(3, dtype=np.float32), y=np.array([0, 1, 0]))
    made = await runs.create("one", identifier, CONFIG, tmp_path / "test.npz")
    assert (made.status, made.bundle, made.config["rounds"], made.config["privacy"]) == (
        "created",
        identifier,
        3,
        "none",
    )
    (tmp_path / "test.npz").unlink()
    cloned = await runs.clone("one", "two")
    assert (cloned.status, cloned.config) == ("created", {**made.config, "run": "two"})
    assert (tmp_path / "state" / "tests" / "two.npz").read_bytes() == (
        tmp_path / "state" / "tests" / "one.npz"
    ).read_bytes()


@pytest.mark.parametrize(
    ("run", "config", "error", "text"),
    [
        ("one", CONFIG, ConflictError, "there is a run one already"),
        ("two", {"rounds": 3}, InvalidValueError, "privacy is missing"),
        ("a/b", CONFIG, InvalidValueError, "run must be 1 to 64 letters"),
        ("two", CONFIG | {"rounds": 0}, InvalidValueError, "rounds must be an integer of at least 1, got 0"),
    ],
)
async def test_mistakes_of_a_new_run(
    runs: Runs, bundle_folder: Path, run: str, config: dict[str, Any], error: type[Exception], text: str
) -> None:
    identifier = await runs.add_bundle(bundle_folder)
    await runs.create("one", identifier, CONFIG)
    with pytest.raises(error, match=text):
        await runs.create(run, identifier, config)


async def test_what_is_not_there_is_named(runs: Runs, bundle_folder: Path, tmp_path: Path) -> None:
    for order in (runs.start, runs.pause, runs.resume, runs.stop, runs.resync):
        with pytest.raises(UnknownRunError, match="there is no run 'nobody'"):
            await order("nobody")
    for bundle in ("0" * 64, "../state", ""):
        with pytest.raises(UnknownRunError, match="there is no bundle"):
            await runs.create("one", bundle, CONFIG)
    identifier = await runs.add_bundle(bundle_folder)
    with pytest.raises(InvalidValueError, match=r"test: .* does not exist"):
        await runs.create("one", identifier, CONFIG, tmp_path / "nowhere.npz")
    assert runs._at.store.runs() == ()
