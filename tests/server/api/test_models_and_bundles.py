import io
import tarfile

import httpx
import numpy as np
import onnx
import pytest
import safetensors.numpy

from server.config import RunConfig
from server.records import RoundRecord, RunRecord
from server.run_codec import run_values


@pytest.fixture
def archived(store, models, bundle, weights) -> None:
    """Versions 1 and 2 of run `run`, all values 1 and 2."""
    store.begin_run(RunRecord("run", bundle.id, 1.0, run_values(RunConfig())))
    for version in (1, 2):
        path = models.save_version(version, {name: np.full_like(array, version) for name, array in weights.items()})
        counts = dict.fromkeys(
            ("updates_accepted", "updates_rejected", "bytes_up", "bytes_down", "bytes_up_dense", "bytes_down_dense"), 1
        )
        macs = {"trained_macs": 1, "scored_macs": 1, "full_macs": 1}
        record = RoundRecord(version, True, 0.5, 1.0, **counts, **macs, seconds=1.0, model_version=version)
        store.archive.add("run", record, path)


@pytest.mark.usefixtures("archived")
async def test_versions_are_listed_and_promoted(client: httpx.AsyncClient) -> None:
    root = "/api/v1/runs/run/models"
    page = (await client.get(f"{root}?limit=1")).json()
    assert ([one["version"] for one in page["items"]], page["next"]) == ([1], "1")
    assert [one["version"] for one in (await client.get(f"{root}?after=1")).json()["items"]] == [2]
    assert (await client.get(f"{root}/promoted")).status_code == 404
    assert (await client.post(f"{root}/1/promote")).json()["promoted"] is True
    assert (await client.get(f"{root}/promoted")).json()["version"] == 1
    for path in ("3", "3/predict.onnx", "3/model.safetensors"):
        assert (await client.get(f"{root}/{path}")).status_code == 404
    refused = await client.post(f"{root}/3/promote")
    assert (refused.status_code, refused.json()["detail"]) == (
        404,
        "version 3 of run run is not archived; these are: 1, 2",
    )
    assert (await client.get("/api/v1/runs/nobody/models")).status_code == 404


@pytest.mark.usefixtures("archived")
async def test_versions_are_downloaded_whole_or_in_ranges(client: httpx.AsyncClient) -> None:
    root = "/api/v1/runs/run/models/2"
    whole = await client.get(f"{root}/model.safetensors")
    assert (safetensors.numpy.load(whole.content)["w1"] == 2).all()
    etag = whole.headers["etag"]
    assert (await client.get(f"{root}/model.safetensors", headers={"If-None-Match": etag})).status_code == 304
    part = await client.get(f"{root}/model.safetensors", headers={"Range": "bytes=8-19", "If-Range": etag})
    assert (part.status_code, part.content) == (206, whole.content[8:20])
    predict = await client.get(f"{root}/predict.onnx")
    graph = onnx.load_from_string(predict.content).graph
    initial = {one.name: onnx.numpy_helper.to_array(one) for one in graph.initializer}
    assert (initial["w1"] == 2).all()
    assert predict.headers["etag"] != etag


async def test_a_bundle_is_uploaded_and_listed(
    client: httpx.AsyncClient, store, bundle_folder, bundle, sources
) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as packed:
        packed.add(bundle_folder, "bundle")
    headers = {"Content-Type": "application/x-tar"}
    for _ in range(2):
        answer = await client.post("/api/v1/bundles", content=content.getvalue(), headers=headers)
        assert (answer.status_code, answer.json()["id"]) == (201, bundle.id)
    listed = (await client.get("/api/v1/bundles")).json()["items"]
    assert [(one["id"], one["model"], one["parameters"]) for one in listed] == [(bundle.id, "tiny", 26)]
    spoilt = await client.post("/api/v1/bundles", content=b"not an archive", headers=headers)
    assert (spoilt.status_code, spoilt.headers["content-type"]) == (422, "application/problem+json")


async def test_a_bundle_that_is_not_what_its_manifest_says_is_refused(client: httpx.AsyncClient, bundle_folder) -> None:
    weights = bundle_folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\xff")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as packed:
        packed.add(bundle_folder, ".")
    answer = await client.post("/api/v1/bundles", content=content.getvalue())
    assert (answer.status_code, "SHA-256" in answer.json()["detail"]) == (422, True)
