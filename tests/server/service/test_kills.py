"""Servers killed with SIGKILL, again and again: nothing is lost, nothing counted twice, and the model is the same.

The model of a run that nobody disturbed is the oracle, bit for bit. Devices announce their updates until they hold a
receipt, as the real ones do, and their updates are drawn by a seed, so that a sum in another order has other bits.
"""

import asyncio
import json
import random
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import URL

from server.database_url import parse_database_url
from server.records import RoundRecord
from server.storage import Store
from tests.throwaway_postgresql import Postgresql
from wire_protocol.messages import RoundPlan
from wire_protocol.model_difference import ModelDifference

PROGRAM = Path(__file__).with_name("killed_server.py")
PATIENCE = 120.0
NAMES = "abcdef"
KILLED = -9
AS_DEVICES_SEND = ("--selection=fisher", "--precision=float16", "--downlink=float16")
NEVER: "Death" = ("", 0, 0.0)
Death = tuple[str, int, float]
Count = tuple[int, str, int]
"""The round in which an update was made, the device, and the round in which it counts."""

POINTS = (
    "before a batch is written",
    "between the spool's fsync and the commit",
    "between the commit and the receipts",
    "before the model is written",
    "between the model and the close",
    "between a version's content and its row",
    "between the archived version and the close",
    "between the close and the deletion of the segment",
    "before the segment is deleted",
    "before a round is opened",
    "between the model's difference and the opening",
    "between the opening and the plan",
    "while states are written",
)


@dataclass(frozen=True)
class Outcome:
    model: bytes
    rounds: tuple[RoundRecord, ...]
    counted: tuple[Count, ...]
    offers: tuple[tuple[str, tuple[ModelDifference, ...]], ...]


@asynccontextmanager
async def killer(folder: Path) -> AsyncIterator[Callable[..., Any]]:
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )

    async def serve(death: Death, options: Sequence[str]) -> int:
        process.stdin.write(json.dumps([*death, options]).encode() + b"\n")
        return int(await process.stdout.readline())

    try:
        yield serve
    finally:
        process.kill()
        await process.communicate()


async def plans(device: Any, run: str) -> AsyncIterator[RoundPlan]:
    begun = 0
    while True:
        plan = await device.plans.get()
        if plan is not None and plan.run == run and plan.round > begun:
            begun = plan.round
            yield plan


def payload(device: Any, plan: RoundPlan) -> bytes:
    generator = np.random.default_rng([NAMES.index(device.name), plan.round])
    kept = sorted(generator.choice(4, size=generator.integers(1, 4), replace=False))
    return device.update(plan, device.keeping(*kept), generator, examples=int(generator.integers(1, 100)))


async def deliver(device: Any, plan: RoundPlan) -> None:
    assert (await device.send(plan, payload(device, plan), again_after=0.3)).accepted


async def take_part(device: Any, run: str) -> None:
    async for plan in plans(device, run):
        await deliver(device, plan)


async def take_part_late(device: Any, run: str) -> None:
    """Devices a and b are in time, c and d a round late, e and f take part in the first round only."""
    held = None
    async for plan in plans(device, run):
        if device.name in "ab" or (device.name in "ef" and plan.round == 1):
            await deliver(device, plan)
        elif device.name in "cd":
            if held is not None:
                await deliver(device, held)
            held = plan


async def ends_of(state: Path, options: Sequence[str], deaths: Iterable[Death], ended: int) -> list[int]:
    """How one server after the other ended, up to the first that was through: its status is `ended`."""
    ends: list[int] = []
    async with killer(state) as serve:
        for death in chain(deaths, iter(lambda: NEVER, None)):
            ends.append(await serve(death, options))
            assert ends[-1] in (ended, KILLED), (state / "log").read_text()
            if ends[-1] == ended:
                break
    return ends


@asynccontextmanager
async def at_work(
    connected: Callable, keeping: Callable, how: Callable[[Any], Coroutine[Any, Any, None]]
) -> AsyncIterator[None]:
    """All devices take part until the end of the context, which ends at once if one of them fails."""
    async with asyncio.timeout(PATIENCE), AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        devices = [await stack.enter_async_context(connected(name)) for name in NAMES]
        for device in devices:
            device.keeping = keeping
        tasks = [group.create_task(how(device)) for device in devices]
        yield
        for task in tasks:
            task.cancel()


@pytest.fixture
def trained(
    bundle_folder: Path, broker: Any, fleet: Any, connected: Callable, keeping: Callable, tmp_path: Path
) -> Callable[..., Any]:
    async def train(
        run: str, rounds: int, deaths: Iterable[Death], how: Callable[..., Any] = take_part, *more: str
    ) -> tuple[Outcome, list[int]]:
        state = tmp_path / run
        state.mkdir()
        options = [
            f"--bundle={bundle_folder}",
            f"--broker={broker.url}",
            f"--fleet={fleet.folder}",
            "--port=0",
            "--privacy=none",
        ]
        options += [f"--state={state}", f"--run={run}", f"--rounds={rounds}", "--resync-every=3", "--local-steps=5"]
        options += ["--batch-size=8", "--keep=1", f"--min-devices={len(NAMES)}", *AS_DEVICES_SEND, *more]
        async with at_work(connected, keeping, partial(how, run=run)):
            ends = await ends_of(state, options, deaths, ended=0)
        return outcome(state, run, models=4 if how is take_part_late else 3, url=_database(more)), ends

    return train


def outcome(state: Path, run: str, models: int, url: URL | None = None) -> Outcome:
    store = Store(state, url)
    rounds = tuple(
        replace(record, seconds=0, bytes_up=0, bytes_down=0, updates_rejected=0) for record in store.rounds(run)
    )
    plans = [plan for record in rounds if (plan := store.plan(run, record.round)) is not None]
    counted = tuple((update.round, update.device, update.counted_in) for update in store.updates.of_run(run))
    store.close()
    for folder, most in (("spool", 0), ("partial", 0), ("encoded", models), ("differences", 1), ("models", 2)):
        assert len([path for path in (state / folder).rglob("*") if path.is_file()]) <= most
    offers = tuple((plan.model, plan.differences) for plan in plans)
    return Outcome((state / "model.safetensors").read_bytes(), rounds, counted, offers)


def _database(options: Sequence[str]) -> URL | None:
    named = [option for option in options if option.startswith("--database=")]
    return parse_database_url(named[0].removeprefix("--database=")) if named else None


def everyone(rounds: int) -> tuple[Count, ...]:
    return tuple((number, name, number) for number in range(1, rounds + 1) for name in NAMES)


async def test_a_server_killed_again_and_again_ends_with_the_same_model(trained: Callable) -> None:
    rounds = 30
    undisturbed, ends = await trained("undisturbed", rounds, [])
    assert ends == [0]
    assert undisturbed.counted == everyone(rounds)
    assert [record.resync for record in undisturbed.rounds] == [True, False, False] * 10
    assert [len(differences) for _, differences in undisturbed.offers] == [0, 0, 0] + [1, 0, 0] * 9
    generator = random.Random(7)
    deaths = [(point, 1, 0.0) for point in POINTS]
    others = [(generator.choice(POINTS), generator.randint(1, 2), 0.0) for _ in range(8)]
    others += [(generator.choice(POINTS), 1, generator.uniform(0.001, 0.05)) for _ in range(14)]
    generator.shuffle(deaths)
    generator.shuffle(others)
    killed, ends = await trained("killed", rounds, deaths + others)
    assert ends[: len(POINTS)] == [KILLED] * len(POINTS)
    assert ends.count(KILLED) >= 24
    assert killed == undisturbed


async def test_a_server_of_a_buffered_run_killed_again_and_again_ends_with_the_same_model(trained: Callable) -> None:
    rounds, buffered = 15, ("--mode=buffered", "--buffer-goal=4", "--most-stale=2", "--staleness-exponent=1")
    undisturbed, ends = await trained("undisturbed", rounds, [], take_part_late, *buffered)
    assert ends == [0]
    made = [(number, name, number) for number in range(1, rounds + 1) for name in ("ab" if number > 1 else "abef")]
    late = [(number, name, number + 1) for number in range(1, rounds) for name in "cd"]
    assert undisturbed.counted == tuple(sorted(made + late))
    assert [record.updates_late for record in undisturbed.rounds] == [0] + [2] * (rounds - 1)
    generator = random.Random(8)
    deaths = [(point, 1, 0.0) for point in POINTS]
    deaths += [(generator.choice(POINTS), 1, generator.uniform(0.001, 0.05)) for _ in range(6)]
    generator.shuffle(deaths)
    killed, ends = await trained("killed", rounds, deaths, take_part_late, *buffered)
    assert ends.count(KILLED) >= len(POINTS)
    assert killed == undisturbed


async def test_with_postgresql_a_server_killed_again_and_again_ends_with_the_same_model(
    trained: Callable, postgresql: Postgresql
) -> None:
    """Also where a connection of the one before is still at work when the next server begins."""
    rounds = 6
    undisturbed, ends = await trained("undisturbed", rounds, [])
    assert ends == [0]
    generator = random.Random(9)
    deaths = [(point, 1, 0.0) for point in generator.sample(POINTS, 6)]
    deaths += [("", 0, generator.uniform(0.1, 0.5)) for _ in range(3)]
    generator.shuffle(deaths)
    url = postgresql.new_database().render_as_string(hide_password=False)
    killed, ends = await trained("killed", rounds, deaths, take_part, f"--database={url}")
    assert ends.count(KILLED) >= 5
    assert killed == undisturbed
