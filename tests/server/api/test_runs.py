import httpx
import pytest

from server.records import RunRecord

BUNDLE = "b" * 64


async def test_runs_are_listed_newest_first_page_by_page(client: httpx.AsyncClient, store) -> None:
    for number in range(5):
        store.begin_run(RunRecord(f"run-{number}", BUNDLE, float(number), {"rounds": 3}))
    first = (await client.get("/api/v1/runs?limit=2")).json()
    assert [run["run"] for run in first["items"]] == ["run-4", "run-3"]
    second = (await client.get(f"/api/v1/runs?limit=2&after={first['next']}")).json()
    assert [run["run"] for run in second["items"]] == ["run-2", "run-1"]
    last = (await client.get(f"/api/v1/runs?limit=2&after={second['next']}")).json()
    assert ([run["run"] for run in last["items"]], last["next"]) == (["run-0"], None)
    one = (await client.get("/api/v1/runs/run-3")).json()
    assert (one["run"], one["bundle"], one["config"], one["rounds_closed"]) == ("run-3", BUNDLE, {"rounds": 3}, 0)
    assert (await client.get("/api/v1/runs/run-3/rounds")).json() == {"items": [], "next": None}


@pytest.mark.parametrize("order", ["start", "pause", "resume", "stop", "resync"])
async def test_orders_reach_the_service(client: httpx.AsyncClient, sources, store, order: str) -> None:
    store.begin_run(RunRecord("digits", BUNDLE, 1.0, {}))
    answer = await client.post(f"/api/v1/runs/digits/{order}")
    assert (answer.status_code, answer.json()["run"]) == (200, "digits")
    assert sources.control.taken == [(order, "digits")]


async def test_clone_and_roll_back(client: httpx.AsyncClient, sources, store) -> None:
    store.begin_run(RunRecord("digits", BUNDLE, 1.0, {}))
    clone = await client.post("/api/v1/runs/digits/clone", json={"run": "digits-2"})
    assert (clone.status_code, clone.headers["location"]) == (201, "/api/v1/runs/digits-2")
    assert (await client.post("/api/v1/runs/digits/roll-back", json={"version": 7})).status_code == 200
    assert sources.control.taken == [("clone", "digits", "digits-2"), ("roll back", "digits", "7")]
    assert (await client.post("/api/v1/runs/digits/roll-back", json={"version": -1})).status_code == 422
