"""What a run's page shows, from rows as a service writes them."""

from collections.abc import Callable

import httpx
import pytest

from server.bundle import Bundle
from server.config import RunConfig
from server.records import Batch, OpeningRecord, RefusalRecord, RoundRecord, RunRecord, Selection, UpdateRecord
from server.run_codec import run_values
from server.storage import Store
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import to_bitmaps


@pytest.fixture
def run(store: Store, bundle: Bundle, make_plan: Callable[..., RoundPlan], keeping, layout) -> str:
    """Three devices, rounds 1 and 2 closed, 3 open: b missed round 1 and came late, c was refused in the open one."""
    config = run_values(RunConfig(run="run", rounds=5))
    store.begin_run(RunRecord("run", bundle.id, 1.0, config))

    def counted(number: int, device: str, *neurons: int, counted_in: int = 0) -> None:
        update = UpdateRecord("run", number, device, bytes([number]) * 32, 0, 1, counted_in or number)
        kept = keeping(*neurons)
        selection = Selection(device, number, 1, to_bitmaps(layout, kept), kept.widths)
        store.updates.commit(Batch((update,), (selection,), (), 2.0))

    def opened(number: int, devices: str = "abc") -> None:
        plan = make_plan(round=number, resync_round=1, deadline=100.0 + number)
        store.open_round(OpeningRecord(plan, frozenset(devices), 10.0 + number))

    def closed(number: int, seconds: float) -> None:
        sums = dict.fromkeys(("updates_accepted", "updates_rejected", "bytes_up", "bytes_down", "bytes_up_dense"), 1)
        rest = dict.fromkeys(("bytes_down_dense", "trained_macs", "scored_macs", "full_macs"), 1)
        record = RoundRecord(
            number, number == 1, number / 10, 1.0, **sums, **rest, seconds=seconds, model_version=number
        )
        store.close_round("run", record)

    opened(1)
    counted(1, "a", 0, 1)
    counted(1, "c", 1)
    closed(1, 4.0)
    opened(2)
    for device in "abc":
        counted(2, device, 1)
    counted(1, "b", 1, 2, counted_in=2)
    closed(2, 8.0)
    opened(3)
    counted(3, "a", 1, 3)
    store.updates.commit(Batch((), (), (RefusalRecord("run", 3, "c", b"c" * 32, "too big", "out-of-range"),), 2.0))
    return "run"


async def test_progress(client: httpx.AsyncClient, run: str) -> None:
    progress = (await client.get(f"/api/v1/runs/{run}/progress")).json()
    opened = progress.pop("open")
    assert progress == {"planned": 5, "closed": 2, "seconds_a_round": 6.0, "seconds_left": 18.0, "missing": 1}
    assert opened == {
        "round": 3,
        "resync": False,
        "opened": 13.0,
        "deadline": 103.0,
        "expected": 3,
        "counted": 1,
        "refused": 1,
        "missing": ["b"],
    }


async def test_stragglers(client: httpx.AsyncClient, run: str) -> None:
    found = (await client.get(f"/api/v1/runs/{run}/stragglers")).json()
    assert (found["rounds"], found["devices"]) == (2, 3)
    assert found["missed_most"] == [{"device": "b", "expected": 2, "missed": 1, "late": 1}]


async def test_neurons(client: httpx.AsyncClient, run: str) -> None:
    found = (await client.get(f"/api/v1/runs/{run}/neurons")).json()
    assert found["devices"] == 3
    assert found["groups"][0]["shares"] == pytest.approx([0, 1, 0, 1 / 3], abs=1e-4)


async def test_results_and_privacy(client: httpx.AsyncClient, run: str) -> None:
    results = (await client.get("/api/v1/results")).json()
    assert results == [{"run": "run", "round": 2, "accuracy": 0.2, "loss": 1.0}]
    privacy = (await client.get(f"/api/v1/runs/{run}/privacy")).json()
    assert privacy["protects"] is None
    assert privacy["words"].startswith("Not private")


async def test_before_anything_happened(client: httpx.AsyncClient, store: Store, bundle: Bundle) -> None:
    store.begin_run(RunRecord("new", bundle.id, 1.0, run_values(RunConfig(run="new", rounds=5))))
    progress = (await client.get("/api/v1/runs/new/progress")).json()
    assert (progress["closed"], progress["open"], progress["seconds_left"]) == (0, None, None)
    assert (await client.get("/api/v1/runs/new/stragglers")).json()["missed_most"] == []
    assert (await client.get("/api/v1/runs/new/neurons")).json() == {"devices": 0, "groups": []}


@pytest.mark.parametrize("part", ["progress", "stragglers", "privacy", "neurons"])
async def test_an_unknown_run_is_named(client: httpx.AsyncClient, part: str) -> None:
    answer = await client.get(f"/api/v1/runs/nobody/{part}")
    assert answer.status_code == 404
    assert "'nobody'" in answer.json()["detail"]
