"""Files that devices fetch: bundle files, models and their differences, with Range so that a broken download goes on.

All are named by their content, so they never change: their ETag is their SHA-256 and caches may keep them for ever.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse

from server.api.files import FILE
from server.api.sources import Sources

PREFIXES = ("/bundles/", "/models/", "/differences/")
_FOR_EVER = "public, max-age=31536000, immutable"


def router(sources: Sources) -> APIRouter:
    """`GET /bundles/{bundle}/{path}`, `GET /models/{sha256}` and `GET /differences/{sha256}`."""
    routes = APIRouter(tags=["downloads"], responses=FILE)

    @routes.get("/bundles/{bundle}/{path:path}", response_class=FileResponse)
    def bundle_file(request: Request, bundle: str, path: str) -> Response:
        """Send `manifest.json` or a file that it names."""
        found = sources.shelf.bundle(bundle)
        if found is None:
            raise HTTPException(404, f"there is no bundle {bundle!r} that a run at hand trains")
        file = found.file(path)
        if file is None:
            raise HTTPException(404, f"bundle {bundle} has no file {path!r}; its manifest.json lists those there are")
        return _immutable(request, file, found.sha256_of(path))

    @routes.get("/models/{sha256}", response_class=FileResponse)
    def model(request: Request, sha256: str) -> Response:
        """Send the tensor_codec bytes of the whole model with this SHA-256; only the last few models are kept."""
        file = sources.shelf.model(sha256)
        if file is None:
            raise HTTPException(404, f"there is no model {sha256!r}; the round's plan names the current one")
        return _immutable(request, file, sha256)

    @routes.get("/differences/{sha256}", response_class=FileResponse)
    def difference(request: Request, sha256: str) -> Response:
        """Send the tensor_codec bytes of the model difference with this SHA-256; only the last one is kept."""
        file = sources.shelf.difference(sha256)
        if file is None:
            raise HTTPException(404, f"there is no difference {sha256!r}; a resync's plan names the current ones")
        return _immutable(request, file, sha256)

    return routes


def _immutable(request: Request, file: Path, sha256: str) -> Response:
    headers = {"ETag": f'"{sha256}"', "Cache-Control": _FOR_EVER}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(file, headers=headers)
