"""Every error is a problem (RFC 9457)."""

import httpx
import pytest

from server.errors import StorageError


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "detail"),
    [
        ("GET", "/nowhere", None, 404, "/nowhere"),
        ("GET", "/api/v1/nowhere", None, 404, "/api/v1/nowhere"),
        ("DELETE", "/api/v1/runs", None, 405, "DELETE is not for /api/v1/runs"),
        ("GET", "/api/v1/runs/nobody", None, 404, "'nobody'"),
        ("GET", "/api/v1/runs/nobody/rounds", None, 404, "'nobody'"),
        ("GET", "/api/v1/runs/no%20body", None, 422, "path.run"),
        ("GET", "/api/v1/runs?limit=0", None, 422, "query.limit"),
        ("POST", "/api/v1/runs", b"{", 422, "body"),
        ("POST", "/api/v1/runs", b'{"run": "x"}', 422, "body.bundle"),
        ("POST", "/api/v1/runs", b" " * 2_000_000, 413, "too large"),
        ("POST", "/api/v1/runs/nobody/start", None, 404, "nobody"),
    ],
)
async def test_a_problem_says_what_is_wrong(client: httpx.AsyncClient, method, path, body, status, detail) -> None:
    answer = await client.request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == status
    assert answer.headers["content-type"] == "application/problem+json"
    problem = answer.json()
    assert (problem["type"], problem["status"]) == ("about:blank", status)
    assert problem["title"]
    assert detail in problem["detail"]
    if status == 405:
        assert "GET" in answer.headers["allow"]


async def test_a_database_that_cannot_be_read_is_to_be_tried_again(client, store, monkeypatch) -> None:
    def fail(*_arguments: object) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(store, "runs", fail)
    answer = await client.get("/api/v1/runs")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["detail"] == "the disk is full"


async def test_a_mistake_of_the_servers_tells_nothing_of_it(client, store, monkeypatch) -> None:
    def fail(*_arguments: object) -> None:
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(store, "runs", fail)
    answer = await client.get("/api/v1/runs")
    assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
    assert "secret" not in answer.text
