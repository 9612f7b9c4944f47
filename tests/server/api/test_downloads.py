"""What takes no token: health, and files that devices fetch by their hash."""

import httpx
import pytest

from server.api.sources import Sources
from server.traffic import Bytes


async def test_health(nobody: httpx.AsyncClient) -> None:
    answer = await nobody.get("/health")
    assert answer.status_code == 200
    assert answer.json() == {"status": "ok", "broker": "disconnected"}


async def test_a_bundle_is_downloaded_whole_or_in_ranges(nobody: httpx.AsyncClient, sources: Sources, bundle) -> None:
    base = f"/api/v1/bundles/{bundle.id}"
    for name in ("manifest.json", "evaluate.onnx", "weights.safetensors"):
        content = (bundle.folder / name).read_bytes()
        before = sources.traffic.total
        whole = await nobody.get(f"{base}/{name}")
        assert whole.content == content
        assert whole.headers["etag"] == f'"{bundle.sha256_of(name)}"'
        assert "immutable" in whole.headers["cache-control"]
        rest = await nobody.get(f"{base}/{name}", headers={"Range": "bytes=10-", "If-Range": whole.headers["etag"]})
        assert rest.status_code == 206
        assert rest.content == content[10:]
        assert rest.headers["content-range"] == f"bytes 10-{len(content) - 1}/{len(content)}"
        assert sources.traffic.total - before == Bytes(0, 2 * len(content) - 10)


@pytest.mark.parametrize(("kind", "folder"), [("models", "encoded"), ("differences", "differences")])
async def test_models_and_differences_are_downloaded_by_their_hash(
    nobody: httpx.AsyncClient, sources: Sources, models, kind: str, folder: str
) -> None:
    path = f"/api/v1/{kind}/{getattr(models, folder).publish(b'0123456789')}"
    before = sources.traffic.total
    whole = await nobody.get(path)
    assert whole.content == b"0123456789"
    part = await nobody.get(path, headers={"Range": "bytes=4-6"})
    assert (part.status_code, part.content) == (206, b"456")
    assert sources.traffic.total - before == Bytes(0, 13)
    beyond = await nobody.get(path, headers={"Range": "bytes=10-"})
    assert beyond.status_code == 416
    known = await nobody.get(path, headers={"If-None-Match": whole.headers["etag"]})
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
async def test_what_is_not_there_is_named(nobody: httpx.AsyncClient, bundle, path: str, detail: str) -> None:
    answer = await nobody.get(f"/api/v1/{path.format(bundle=bundle.id)}")
    assert answer.status_code == 404
    assert detail in answer.json()["detail"]
