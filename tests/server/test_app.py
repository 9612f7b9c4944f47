from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from server.api.sources import Sources
from server.app import create_app
from server.bundle import Bundle, open_bundle
from server.model_files import ModelFiles
from server.records import DeviceRecord, RunRecord
from server.run_host import Premises
from server.runs import Runs
from server.shelf import Offered, Shelf
from server.traffic import Bytes


@pytest.fixture
def sources(bundle: Bundle, models: ModelFiles, premises: Premises, runs: Runs) -> Sources:
    shelf = Shelf(lambda: [Offered(bundle, models)])
    return Sources(premises.store, shelf, premises.traffic, lambda: False, runs, premises.metrics.registry)


@pytest.fixture
def bundle(bundle_folder: Path) -> Bundle:
    return open_bundle(bundle_folder)


@pytest.fixture
def models(tmp_path: Path) -> ModelFiles:
    return ModelFiles(tmp_path / "state", "run")


@pytest.fixture
async def client(sources: Sources) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=create_app(sources))
    async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
        yield client


async def test_health(client: httpx.AsyncClient) -> None:
    answer = await client.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "broker": "disconnected"}


async def test_it_is_alive_but_not_ready_without_a_broker(client: httpx.AsyncClient) -> None:
    assert (await client.get("/health/live")).status_code == 200
    answer = await client.get("/health/ready")
    assert (answer.status_code, answer.json()["broker"], answer.json()["database"]) == (503, "disconnected", "ok")


async def test_metrics_come_in_both_formats(client: httpx.AsyncClient) -> None:
    plain = await client.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert "process_cpu_seconds_total" in plain.text
    open_metrics = await client.get("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})
    assert open_metrics.headers["content-type"].startswith("application/openmetrics-text")
    assert open_metrics.text.endswith("# EOF\n")


async def test_runs_rounds_and_devices(client: httpx.AsyncClient, sources: Sources) -> None:
    sources.store.begin_run(RunRecord("run", "b" * 64, 1.0, {"rounds": 3}))
    sources.store.save_devices([DeviceRecord("a", True, 5, "portable", "0.1.0", 2.0)])
    expected = {"run": "run", "bundle": "b" * 64, "started": 1.0, "config": {"rounds": 3}, "rounds_closed": 0}
    expected |= {"status": "created", "reason": ""}
    assert (await client.get("/api/v1/runs")).json() == [expected]
    assert (await client.get("/api/v1/runs/run")).json() == expected
    assert (await client.get("/api/v1/runs/run/rounds")).json() == []
    (device,) = (await client.get("/api/v1/devices")).json()
    assert (device["id"], device["online"], device["examples"], device["kept"]) == ("a", True, 5, {})
    assert device["conflicts"] == 0
    assert sources.traffic.total == Bytes()


@pytest.mark.parametrize("path", ["", "/rounds"])
async def test_an_unknown_run_is_named(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(f"/api/v1/runs/nobody{path}")
    assert answer.status_code == 404
    assert "'nobody'" in answer.json()["detail"]


async def test_a_bundle_is_downloaded_whole_or_in_ranges(
    client: httpx.AsyncClient, sources: Sources, bundle: Bundle
) -> None:
    base = f"/api/v1/bundles/{bundle.id}"
    for name in ("manifest.json", "evaluate.onnx", "weights.safetensors"):
        content = (bundle.folder / name).read_bytes()
        before = sources.traffic.total
        whole = await client.get(f"{base}/{name}")
        assert whole.content == content
        assert whole.headers["etag"] == f'"{bundle.sha256_of(name)}"'
        assert "immutable" in whole.headers["cache-control"]
        rest = await client.get(f"{base}/{name}", headers={"Range": "bytes=10-", "If-Range": whole.headers["etag"]})
        assert rest.status_code == 206
        assert rest.content == content[10:]
        assert rest.headers["content-range"] == f"bytes 10-{len(content) - 1}/{len(content)}"
        assert sources.traffic.total - before == Bytes(0, 2 * len(content) - 10)


@pytest.mark.parametrize(("kind", "folder"), [("models", "encoded"), ("differences", "differences")])
async def test_models_and_differences_are_downloaded_by_their_hash(
    client: httpx.AsyncClient, sources: Sources, models: ModelFiles, kind: str, folder: str
) -> None:
    path = f"/api/v1/{kind}/{getattr(models, folder).publish(b'0123456789')}"
    before = sources.traffic.total
    whole = await client.get(path)
    assert whole.content == b"0123456789"
    part = await client.get(path, headers={"Range": "bytes=4-6"})
    assert (part.status_code, part.content) == (206, b"456")
    assert sources.traffic.total - before == Bytes(0, 13)
    beyond = await client.get(path, headers={"Range": "bytes=10-"})
    assert beyond.status_code == 416
    known = await client.get(path, headers={"If-None-Match": whole.headers["etag"]})
    assert (known.status_code, known.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "detail"),
    [
        ("models/" + "0" * 64, "there is no model '0"),
        ("models/short", "there is no model 'short'"),
        ("differences/" + "0" * 64, "there is no difference '0"),
        ("bundles/other/manifest.json", "there is no bundle 'other' that a run at hand trains"),
        ("bundles/{bundle}/secret.txt", "has no file 'secret.txt'"),
        ("bundles/{bundle}/%2e%2e/state/fisherfleet.sqlite", "has no file '../state/fisherfleet.sqlite'"),
    ],
)
async def test_what_is_not_there_is_named(client: httpx.AsyncClient, bundle: Bundle, path: str, detail: str) -> None:
    answer = await client.get(f"/api/v1/{path.format(bundle=bundle.id)}")
    assert answer.status_code == 404
    assert detail in answer.json()["detail"]


async def test_the_interface_describes_itself(client: httpx.AsyncClient) -> None:
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert set(paths) == {
        "/health",
        "/health/live",
        "/health/ready",
        "/metrics",
        "/api/v1/runs",
        "/api/v1/runs/{run}",
        "/api/v1/runs/{run}/rounds",
        "/api/v1/devices",
        "/api/v1/events",
        "/api/v1/events/stream",
        "/api/v1/bundles/{bundle}/{path}",
        "/api/v1/models/{sha256}",
        "/api/v1/differences/{sha256}",
    }
