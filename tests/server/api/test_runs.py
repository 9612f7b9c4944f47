import io

import httpx
import numpy as np
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


@pytest.fixture
async def digits(client: httpx.AsyncClient, bundle) -> dict:
    new = {"run": "digits", "bundle": bundle.id, "config": {"rounds": 3, "privacy": "none"}}
    return (await client.post("/api/v1/runs", json=new)).raise_for_status().json()


async def test_a_run_is_made_of_a_bundle_and_what_is_missing_is_default(client: httpx.AsyncClient, digits) -> None:
    assert (digits["status"], digits["config"]["rounds"], digits["config"]["keep"]) == ("created", 3, 0.5)
    for config, place, words in (
        ({}, "privacy", "privacy is missing"),
        ({"privacy": "none", "rounds": 0}, "rounds", "rounds must be"),
        ({"privacy": "none", "rounds": "many"}, "rounds", "Expected `int`"),
        ({"privacy": "none", "training": {"momentum": 1}}, "training.momentum", "momentum must be"),
    ):
        wrong = {"run": "other", "bundle": digits["bundle"], "config": config}
        answer = await client.post("/api/v1/runs", json=wrong)
        assert (answer.status_code, words in answer.json()["detail"]) == (422, True)
        assert [one["place"] for one in answer.json()["errors"]] == [place]
    absent = {"run": "other", "bundle": BUNDLE, "config": {"privacy": "none"}}
    assert (await client.post("/api/v1/runs", json=absent)).status_code == 404


async def test_the_defaults_are_what_a_run_gets(client: httpx.AsyncClient, digits) -> None:
    defaults = (await client.get("/api/v1/run-defaults")).json()
    named = {"run": "digits", "rounds": 3, "privacy": "none"}
    assert defaults | named == digits["config"]


async def test_orders_change_how_a_run_stands(client: httpx.AsyncClient, digits) -> None:
    statuses = []
    for order in ("start", "pause", "resume", "resync", "stop"):
        answer = await client.post(f"/api/v1/runs/digits/{order}")
        statuses.append((answer.status_code, answer.json()["status"]))
    assert statuses == [(200, "running"), (200, "paused"), (200, "running"), (200, "running"), (200, "stopped")]
    again = await client.post("/api/v1/runs/digits/start")
    assert (again.status_code, "stopped" in again.json()["detail"]) == (409, True)


async def test_clone_and_roll_back(client: httpx.AsyncClient, digits) -> None:
    clone = await client.post("/api/v1/runs/digits/clone", json={"run": "digits-2"})
    assert (clone.status_code, clone.headers["location"]) == (201, "/api/v1/runs/digits-2")
    assert clone.json()["config"]["rounds"] == 3
    await client.post("/api/v1/runs/digits/start")
    absent = await client.post("/api/v1/runs/digits/roll-back", json={"version": 7})
    assert (absent.status_code, "version 7" in absent.json()["detail"]) == (404, True)
    assert (await client.post("/api/v1/runs/digits/roll-back", json={"version": -1})).status_code == 422


def file_of(**arrays: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.savez(content, **arrays)
    return content.getvalue()


async def test_held_out_examples_are_taken_until_the_run_starts(client: httpx.AsyncClient, digits, sources) -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    good = file_of(x=x, y=np.array([0, 1, 1, 0]))
    for wrong in (b"not an archive", file_of(x=x[:, :2], y=np.zeros(4, int))):
        answer = await client.post("/api/v1/runs/digits/held-out", content=wrong)
        assert (answer.status_code, answer.json()["detail"][:6]) == (422, "test: ")
    assert sources.files.test("digits") is None
    assert (await client.post("/api/v1/runs/nobody/held-out", content=good)).status_code == 404
    assert (await client.post("/api/v1/runs/digits/held-out", content=good)).json()["run"] == "digits"
    kept = sources.files.test("digits")
    assert kept is not None
    assert (kept.x == x).all()
    await client.post("/api/v1/runs/digits/start")
    assert (await client.post("/api/v1/runs/digits/held-out", content=good)).status_code == 409
