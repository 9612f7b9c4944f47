import httpx
import pytest

from server.records import DeviceRecord


@pytest.fixture
def heard(store, fleet) -> None:
    """Of devices a to f, b and g are on line, c was; e is revoked; g is in no registry."""
    fleet.enrol(*"abcdef", revoked="e")
    store.save_devices([DeviceRecord(name, name != "c", 5, "portable", "0.1.0", 2.0) for name in "bcg"])


async def _listed(client: httpx.AsyncClient, query: str = "") -> list[str]:
    return [device["id"] for device in (await client.get(f"/api/v1/devices?{query}")).json()["items"]]


@pytest.mark.usefixtures("heard")
async def test_devices_are_found_by_how_they_stand(client: httpx.AsyncClient) -> None:
    assert await _listed(client) == list("abcdefg")
    assert await _listed(client, "online=true") == ["b", "g"]
    assert await _listed(client, "online=false") == list("acdef")
    assert await _listed(client, "standing=revoked") == ["e"]
    assert await _listed(client, "standing=unknown") == ["g"]
    assert await _listed(client, "standing=enrolled&online=true") == ["b"]
    page = (await client.get("/api/v1/devices?limit=3")).json()
    assert ([device["id"] for device in page["items"]], page["next"]) == (list("abc"), "c")
    assert await _listed(client, "limit=3&after=c") == list("def")


@pytest.mark.usefixtures("heard")
async def test_a_device_is_shown_as_it_was_last_heard(client: httpx.AsyncClient) -> None:
    device = (await client.get("/api/v1/devices/b")).json()
    assert (device["standing"], device["online"], device["heard"]["last_seen"]) == ("enrolled", True, 2.0)
    assert (device["heard"]["temperature"], device["heard"]["paused"], device["heard"]["free_mb"]) == (None, "", None)
    assert (await client.get("/api/v1/devices/a")).json()["heard"] is None
    assert (await client.get("/api/v1/devices/nobody")).status_code == 404


@pytest.mark.usefixtures("heard")
async def test_tags(client: httpx.AsyncClient) -> None:
    path = "/api/v1/devices/a/tags"
    empty = await client.get(path)
    assert empty.json() == {"tags": []}
    first = await client.put(path, json={"tags": ["pi", "attic", "pi"]}, headers={"If-Match": empty.headers["etag"]})
    assert first.json() == {"tags": ["attic", "pi"]}
    assert (await client.get(path)).headers["etag"] == first.headers["etag"] != empty.headers["etag"]
    stale = await client.put(path, json={"tags": []}, headers={"If-Match": empty.headers["etag"]})
    assert stale.status_code == 412
    assert await _listed(client, "tag=pi") == ["a"]
    assert (await client.get("/api/v1/devices/a")).json()["tags"] == ["attic", "pi"]
    assert (await client.put(path, json={"tags": []})).json() == {"tags": []}
    assert await _listed(client, "tag=pi") == []
    for wrong in (["a b"], ["x"] * 17, "pi", [""]):
        assert (await client.put(path, json={"tags": wrong})).status_code == 422
    assert (await client.put("/api/v1/devices/nobody/tags", json={"tags": []})).status_code == 404


def test_tags_are_not_replaced_where_they_are_others(store) -> None:
    assert store.tags.replace("a", ["x", "y"], was=[]) == ("x", "y")
    assert store.tags.replace("a", ["z"], was=["x"]) is None
    assert store.tags.of(["a", "b"]) == {"a": ("x", "y")}


@pytest.mark.usefixtures("heard")
async def test_a_device_is_held_until_it_is_released(client: httpx.AsyncClient, store) -> None:
    for reason in ("a loose cable", "another"):
        held = (await client.post("/api/v1/devices/b/quarantine", json={"reason": reason})).json()
        assert (held["standing"], held["reason"]) == ("quarantined", "a loose cable")
    assert store.quarantine.holds("b")
    for _ in range(2):
        assert (await client.post("/api/v1/devices/b/release")).json()["standing"] == "enrolled"
    assert not store.quarantine.holds("b")
    assert (await client.post("/api/v1/devices/nobody/release")).status_code == 404
