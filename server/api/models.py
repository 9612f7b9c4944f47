"""Versions of a run's model: listed, downloaded, promoted."""

from __future__ import annotations

from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Annotated

from fastapi import APIRouter, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse
from safetensors.numpy import load
from starlette.background import BackgroundTask

from model_export.trained_model import TRAINED_WEIGHTS, predict_model
from server.api.examples import shown
from server.api.files import FILE
from server.api.guarded_route import guarded_router, names_etag
from server.api.names import RunName, Version
from server.api.pages import Limit, Page, page_of
from server.api.problems import problems
from server.api.sources import Sources
from server.records import ModelVersionRecord
from wire_protocol.bundle_manifest import PREDICT

_MODEL = {
    "version": 12,
    "round": 12,
    "at": 1764326400.0,
    "accuracy": 0.961,
    "loss": 0.14,
    "sha256": "6ac3c336e4094835293a3fed8a4b5fedde1b5e2626d9838fed50693bba00af0e",
    "size": 412_160,
    "promoted": True,
}


def router(sources: Sources) -> APIRouter:
    """Everything under `/runs/{run}/models`."""
    routes = guarded_router(sources, "models")
    _add_versions(routes, sources)
    _add_files(routes, sources)
    return routes


def _add_versions(routes: APIRouter, sources: Sources) -> None:
    archive = sources.store.archive

    @routes.get("/runs/{run}/models", responses=problems(404) | shown({"items": [_MODEL], "next": None}))
    def list_models(
        run: RunName,
        limit: Limit = 100,
        after: Annotated[int, Query(ge=-1, le=2**53, description="`next` of the page before")] = -1,
    ) -> Page[ModelVersionRecord]:
        """List a run's archived model versions, the oldest first. The newest few, the best and a promoted one are."""
        sources.require_run(run)
        records = [record for record in archive.versions(run) if record.version > after]
        return page_of(records[: limit + 1], limit, lambda record: record.version)

    @routes.get("/runs/{run}/models/promoted", responses=problems(404) | shown(_MODEL))
    def get_promoted(run: RunName) -> ModelVersionRecord:
        """Show the version that is promoted for inference."""
        found = next((record for record in archive.versions(run) if record.promoted), None)
        if found is None:
            raise HTTPException(404, f"no version of run {run!r} is promoted")
        return found

    @routes.get("/runs/{run}/models/{version}", responses=problems(404) | shown(_MODEL))
    def get_model(run: RunName, version: Version) -> ModelVersionRecord:
        """Show an archived version."""
        return sources.store.archive.version(run, version)

    @routes.post("/runs/{run}/models/{version}/promote", responses=problems(404) | shown(_MODEL))
    def promote_model(run: RunName, version: Version) -> ModelVersionRecord:
        """Make a version the run's one for inference, in place of any other. It stays archived as long as it is.

        Devices whose owners allow it fetch it and infer with it from then on.
        """
        bundle = sources.files.bundle(sources.require_run(run).bundle)
        sources.store.promotions.promote(run, version, bundle.folder)
        sources.offers_changed()
        return sources.store.archive.version(run, version)


def _add_files(routes: APIRouter, sources: Sources) -> None:
    @routes.get(f"/runs/{{run}}/models/{{version}}/{TRAINED_WEIGHTS}", response_class=FileResponse, responses=FILE)
    def download_weights(request: Request, run: RunName, version: Version) -> Response:
        """Send a version's weights as safetensors, float32, whole or in ranges."""
        record = sources.store.archive.version(run, version)
        if names_etag(request.headers.get("If-None-Match"), f'"{record.sha256}"'):
            return Response(status_code=304, headers={"ETag": f'"{record.sha256}"'})
        return _file(sources.store.archive.open(run, version), f"{run}-{version}.safetensors", record.sha256)

    @routes.get(f"/runs/{{run}}/models/{{version}}/{PREDICT}", response_class=FileResponse, responses=FILE)
    def download_predict(request: Request, run: RunName, version: Version) -> Response:
        """Send a version as an ONNX model for any runtime, whole or in ranges."""
        record = sources.store.archive.version(run, version)
        etag = f"{record.sha256}-onnx"
        if names_etag(request.headers.get("If-None-Match"), f'"{etag}"'):
            return Response(status_code=304, headers={"ETag": f'"{etag}"'})
        bundle = sources.files.bundle(sources.require_run(run).bundle)
        content = predict_model(bundle.folder, load(sources.store.archive.open(run, version)))
        return _file(content, f"{run}-{version}.onnx", etag)


def _file(content: bytes, name: str, etag: str) -> Response:
    """Starlette sends ranges of files only."""
    with NamedTemporaryFile(delete=False) as file:
        file.write(content)
    headers = {"ETag": f'"{etag}"', "Cache-Control": "private, no-cache"}
    drop = BackgroundTask(Path(file.name).unlink)
    return FileResponse(
        file.name, media_type="application/octet-stream", filename=name, headers=headers, background=drop
    )
