"""Servers killed with SIGKILL while two runs take turns: both end with the models of an undisturbed service."""

import random
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sqlalchemy import URL

from server.config import RunConfig
from tests.server.service.killed_server import ENDED
from tests.server.service.runs_in_turns import Ending, endings, make_running
from tests.server.service.test_kills import KILLED, NAMES, POINTS, Death, at_work, ends_of, everyone
from tests.throwaway_postgresql import Postgresql

ROUNDS = {"long": 5, "short": 3}


async def take_part(device: Any) -> None:
    """In every round of every run; the updates are drawn by its name."""
    begun = dict.fromkeys(ROUNDS, 0)
    while True:
        plan = await device.plans.get()
        if plan is None or plan.round <= begun[plan.run]:
            continue
        begun[plan.run] = plan.round
        generator = np.random.default_rng([NAMES.index(device.name), plan.round, *plan.run.encode()])
        update = device.update(plan, device.keeping(0, 2), generator, examples=int(generator.integers(1, 100)))
        assert (await device.send(plan, update, again_after=0.3)).accepted


@pytest.fixture
def in_turns(
    bundle_folder: Path, broker: Any, fleet: Any, connected: Callable, keeping: Callable, tmp_path: Path
) -> Callable[..., Any]:
    """Trains by a broker that remembers nothing of the training before it."""

    async def train(
        name: str, deaths: Iterable[Death], url: URL | None = None
    ) -> tuple[Mapping[str, Ending], list[int]]:
        state = tmp_path / name
        same = {"keep": 1.0, "resync_every": 3, "local_steps": 5, "batch_size": 8, "min_devices": len(NAMES)}
        configs = [RunConfig(run=run, rounds=rounds, **same) for run, rounds in ROUNDS.items()]
        make_running(state, url, bundle_folder, configs)
        options = [f"--broker={broker.url}", f"--fleet={fleet.folder}", "--port=0", f"--state={state}"]
        if url is not None:
            options.append(f"--database={url.render_as_string(hide_password=False)}")
        broker.kill()
        broker.start()
        async with at_work(connected, keeping, take_part):
            ends = await ends_of(state, options, deaths, ENDED)
        return endings(state, url), ends

    return train


@pytest.mark.parametrize("kind", ["SQLite", "PostgreSQL"])
async def test_two_runs_in_turns_end_with_the_same_models(
    kind: str, in_turns: Callable, request: pytest.FixtureRequest
) -> None:
    undisturbed, ends = await in_turns("undisturbed", [])
    assert ends == [ENDED]
    assert {run: one.counted for run, one in undisturbed.items()} == {
        run: tuple((number, name) for number, name, _ in everyone(rounds)) for run, rounds in ROUNDS.items()
    }
    generator = random.Random(kind)
    deaths = [(point, generator.randint(1, 2), 0.0) for point in generator.sample(POINTS, 5)]
    deaths += [(point, 1, generator.uniform(0.001, 0.05)) for point in generator.sample(POINTS, 3)]
    generator.shuffle(deaths)
    url = None
    if kind == "PostgreSQL":
        cluster: Postgresql = request.getfixturevalue("postgresql")
        url = cluster.new_database()
    killed, ends = await in_turns("killed", deaths, url)
    assert ends.count(KILLED) >= 5
    assert killed == undisturbed
