"""Once for each key, 304 for who has it, and everything is noted."""

import asyncio

import httpx

from server.errors import UnknownRunError
from server.event_log import EventFilter

NEW = {"run": "digits", "config": {"privacy": "none"}}


async def test_a_request_with_a_key_is_carried_out_once(client: httpx.AsyncClient, bundle, asking, store) -> None:
    new = NEW | {"bundle": bundle.id}
    first = await client.post("/api/v1/runs", json=new, headers={"Idempotency-Key": "one"})
    again = await client.post("/api/v1/runs", json=new, headers={"Idempotency-Key": "one"})
    assert (first.status_code, first.content) == (201, again.content)
    assert first.headers["location"] == again.headers["location"] == "/api/v1/runs/digits"
    assert "idempotent-replayed" not in first.headers
    assert again.headers["idempotent-replayed"] == "true"
    assert len(store.runs()) == 1
    other = await client.post("/api/v1/runs", json=new | {"run": "x"}, headers={"Idempotency-Key": "one"})
    assert (other.status_code, "another request" in other.json()["detail"]) == (422, True)
    assert (await client.post("/api/v1/runs", json=new)).status_code == 409
    second = {"Authorization": f"Bearer {store.tokens.create('second', 'operator')}", "Idempotency-Key": "one"}
    async with asking(second) as another:
        assert (await another.post("/api/v1/runs", json=new)).status_code == 409


async def test_what_was_refused_may_be_tried_again_with_its_key(client: httpx.AsyncClient, bundle) -> None:
    key = {"Idempotency-Key": "one"}
    assert (await client.post("/api/v1/runs/digits/start", headers=key)).status_code == 404
    await client.post("/api/v1/runs", json=NEW | {"bundle": bundle.id})
    assert (await client.post("/api/v1/runs/digits/start", headers=key)).status_code == 200
    assert (await client.post("/api/v1/runs/digits/start", headers={"Idempotency-Key": "k" * 129})).status_code == 422


async def test_two_at_once_with_one_key_are_one(client: httpx.AsyncClient, sources, bundle, monkeypatch) -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    create = sources.control.create

    async def slowly(*arguments):
        begun.set()
        await go_on.wait()
        return await create(*arguments)

    monkeypatch.setattr(sources.control, "create", slowly)
    new = NEW | {"bundle": bundle.id}
    first = asyncio.create_task(client.post("/api/v1/runs", json=new, headers={"Idempotency-Key": "one"}))
    await begun.wait()
    second = await client.post("/api/v1/runs", json=new, headers={"Idempotency-Key": "one"})
    assert (second.status_code, "under way" in second.json()["detail"]) == (409, True)
    go_on.set()
    assert (await first).status_code == 201
    assert len(sources.store.runs()) == 1


async def test_who_has_the_answer_is_told_so(client: httpx.AsyncClient, bundle) -> None:
    first = await client.get("/api/v1/runs")
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = await client.get("/api/v1/runs", headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    await client.post("/api/v1/runs", json=NEW | {"bundle": bundle.id})
    changed = await client.get("/api/v1/runs", headers={"If-None-Match": first.headers["etag"]})
    assert changed.status_code == 200


async def test_changes_are_noted_with_who_and_what_came_of_it(client: httpx.AsyncClient, bundle, store) -> None:
    await client.post("/api/v1/runs", json=NEW | {"bundle": bundle.id})
    await client.post("/api/v1/runs/digits/start")
    await client.post("/api/v1/runs/nobody/pause")
    await client.put("/api/v1/devices/a/tags", json={"tags": [7]})
    await client.get("/api/v1/runs")
    audit = store.events.list(wanted=EventFilter(kinds=("audit",)))
    noted = [(event.kind, event.actor, event.run, event.device, event.text) for event in audit]
    assert noted == [
        ("audit", "operator", None, None, "POST /api/v1/runs: 201"),
        ("audit", "operator", "digits", None, "POST /api/v1/runs/digits/start: 200"),
        ("audit", "operator", "nobody", None, "POST /api/v1/runs/nobody/pause: 404"),
        ("audit", "operator", None, "a", "PUT /api/v1/devices/a/tags: 422"),
    ]


async def test_who_asks_is_written_down_before_it_is_done(
    client: httpx.AsyncClient, bundle, sources, store, monkeypatch
) -> None:
    """As a kill would find it in the middle of an order; and nothing is done that cannot be written down."""
    audits = EventFilter(kinds=("audit",))
    found = []

    async def look(run: str, *_rest: object) -> None:
        found.extend(store.events.list(wanted=audits))
        raise UnknownRunError(f"there is no run {run!r}")

    monkeypatch.setattr(sources.control, "create", look)
    assert (await client.post("/api/v1/runs", json=NEW | {"bundle": bundle.id})).status_code == 404
    assert [(event.actor, event.text) for event in found] == [("operator", "POST /api/v1/runs: begun")]
    assert [event.text for event in store.events.list(wanted=audits)] == ["POST /api/v1/runs: 404"]
    monkeypatch.undo()
    store.events.close()
    answer = await client.post("/api/v1/runs", json=NEW | {"bundle": bundle.id})
    assert (answer.status_code, store.runs()) == (503, ())
