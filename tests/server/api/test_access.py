"""Who may do what."""

import httpx
import pytest

from server.api.access import COOKIE

CSRF = {"X-Requested-With": "fisherfleet"}


@pytest.mark.parametrize("path", ["me", "runs", "devices", "events", "tokens", "runs/x", "events/stream"])
async def test_reading_takes_a_token(nobody: httpx.AsyncClient, path: str) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer nonsense"},
        {"Authorization": "Basic YTpi"},
        {"Authorization": "Bearer"},
    ):
        answer = await nobody.get(f"/api/v1/{path}", headers=headers)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"


async def test_nothing_is_read_of_who_has_no_token(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.post("/api/v1/runs", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 401


async def test_a_viewer_reads_and_changes_nothing(asking, viewer, store) -> None:
    async with asking(viewer) as client:
        assert (await client.get("/api/v1/me")).json()["name"] == "viewer"
        assert (await client.get("/api/v1/runs")).status_code == 200
        for method, path in (("POST", "runs"), ("POST", "runs/x/start"), ("PUT", "devices/a/tags"), ("GET", "tokens")):
            answer = await client.request(method, f"/api/v1/{path}", json={})
            assert (answer.status_code, "viewer" in answer.json()["detail"]) == (403, True)
    noted = [(event.actor, event.text) for event in store.events.list()]
    assert noted == [
        ("viewer", "POST /api/v1/runs: 403"),
        ("viewer", "POST /api/v1/runs/x/start: 403"),
        ("viewer", "PUT /api/v1/devices/a/tags: 403"),
    ]


async def test_a_revoked_token_opens_nothing(client: httpx.AsyncClient) -> None:
    made = (await client.post("/api/v1/tokens", json={"name": "guest", "role": "operator"})).json()
    headers = {"Authorization": f"Bearer {made['token']}"}
    assert (await client.get("/api/v1/me", headers=headers)).json()["name"] == "guest"
    assert (await client.delete("/api/v1/tokens/guest", headers=headers)).status_code == 200
    assert (await client.get("/api/v1/me", headers=headers)).status_code == 401


async def test_a_browser_logs_in_and_out(nobody: httpx.AsyncClient, operator, store) -> None:
    token = operator["Authorization"].removeprefix("Bearer ")
    assert (await nobody.post("/login", json={"token": "wrong"})).status_code == 401
    answer = await nobody.post("/login", json={"token": token})
    assert answer.json()["role"] == "operator"
    cookie = answer.headers["set-cookie"]
    assert all(word in cookie for word in ("HttpOnly", "SameSite=strict", "Path=/", "Max-Age="))
    assert "Secure" not in cookie
    assert (await nobody.get("/api/v1/me")).json()["name"] == "operator"
    change = {"name": "made", "role": "viewer"}
    forged = await nobody.post("/api/v1/tokens", json=change)
    assert (forged.status_code, "X-Requested-With" in forged.json()["detail"]) == (403, True)
    assert (await nobody.post("/api/v1/tokens", json=change, headers=CSRF)).status_code == 201
    assert (await nobody.post("/logout")).status_code == 204
    assert COOKIE not in nobody.cookies
    assert (await nobody.get("/api/v1/me")).status_code == 401


async def test_over_tls_the_cookie_stays_on_tls(asking, operator) -> None:
    async with asking({}) as client:
        token = operator["Authorization"].removeprefix("Bearer ")
        answer = await client.post("https://server/login", json={"token": token})
        assert "Secure" in answer.headers["set-cookie"]


async def test_a_token_is_shown_once_and_only_its_name_after(client: httpx.AsyncClient, store) -> None:
    wanted = {"name": "guest", "role": "viewer", "expires": 4e9}
    first = await client.post("/api/v1/tokens", json=wanted, headers={"Idempotency-Key": "k"})
    assert first.headers["cache-control"] == "no-store"
    again = await client.post("/api/v1/tokens", json=wanted, headers={"Idempotency-Key": "k"})
    assert again.status_code == 409
    assert first.json()["token"] not in again.text + (await client.get("/api/v1/tokens")).text
    assert store.replies.find("operator", "k") is None
