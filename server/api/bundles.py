"""Bundles: what runs are made of. One is uploaded as an archive of the folder that `fisherfleet export` wrote."""

from __future__ import annotations

from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from server.api.examples import shown
from server.api.guarded_route import guarded_router
from server.api.names import Sha256
from server.api.pages import Limit, Page, page_of
from server.api.problems import problems
from server.api.sources import Sources
from server.api.uploads import binary_body, receive
from server.bundle_archive import LARGEST_ARCHIVE, unpack_bundle

_BUNDLE = {
    "id": "6ac3c336e4094835293a3fed8a4b5fedde1b5e2626d9838fed50693bba00af0e",
    "model": "lenet",
    "input_shape": [1, 28, 28],
    "parameters": 61_706,
    "bytes": 1_204_114,
}
_BODY = binary_body("application/zip", "application/x-tar", "application/octet-stream")


class BundleView(BaseModel):
    """A bundle that was uploaded."""

    id: Sha256 = Field(description="SHA-256 of its manifest")
    model: str = Field(description="what was exported")
    input_shape: tuple[int, ...] = Field(description="of one example")
    parameters: int = Field(description="numbers that are trained")
    bytes: int = Field(description="of all its files")


def router(sources: Sources) -> APIRouter:
    """`GET` and `POST /bundles`."""
    routes = guarded_router(sources, "bundles", keeps_replies=False)

    @routes.get("/bundles", responses=shown({"items": [_BUNDLE], "next": None}))
    def list_bundles(
        limit: Limit = 100,
        after: Annotated[Sha256 | None, Query(description="`next` of the page before")] = None,
    ) -> Page[BundleView]:
        """List the bundles that runs can be made of, by id."""
        ids = [one for one in sources.files.bundles() if after is None or one > after]
        views = [_view(sources, one) for one in ids[: limit + 1]]
        return page_of(views, limit, lambda view: view.id)

    @routes.post(
        "/bundles",
        status_code=201,
        responses=problems(413) | shown(_BUNDLE, 201),
        openapi_extra=_BODY,
        max_body_size=LARGEST_ARCHIVE,
    )
    async def add_bundle(request: Request, response: Response) -> BundleView:
        """Add a bundle: a .zip or .tar (also .tar.gz) of its folder. It is verified; again is as good as once."""
        with TemporaryDirectory() as folder:
            archive = await receive(request, Path(folder) / "archive")
            unpacked = await run_in_threadpool(unpack_bundle, archive, Path(folder) / "bundle")
            bundle = await sources.control.add_bundle(unpacked)
        response.headers["Location"] = f"/api/v1/bundles/{bundle}/manifest.json"
        return await run_in_threadpool(_view, sources, bundle)

    return routes


def _view(sources: Sources, bundle: str) -> BundleView:
    manifest = sources.files.manifest(bundle)
    return BundleView(
        id=bundle,
        model=manifest.model,
        input_shape=manifest.input_shape,
        parameters=sum(prod(parameter.shape) for parameter in manifest.layout.parameters),
        bytes=sum(file.size for file in manifest.files.values()),
    )
