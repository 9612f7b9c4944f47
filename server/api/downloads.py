"""Files that devices fetch, with Range so that a broken download goes on: bundles' files, models and their differences,
releases of the client, and promoted models.

All are named by their content, so they never change: their ETag is their SHA-256 and caches may keep them for ever.
"""

from __future__ import annotations

from pathlib import Path

from fastapi import APIRouter, HTTPException, Request, Response
from fastapi.responses import FileResponse

from server.api.files import FILE
from server.api.sources import Sources

PREFIXES = ("/bundles/", "/models/", "/differences/", "/releases/", "/promoted/")
_FOR_EVER = "public, max-age=31536000, immutable"


def router(sources: Sources) -> APIRouter:
    """`GET /bundles/{bundle}/{path}`, and `/models`, `/differences`, `/releases` and `/promoted` with `/{sha256}`."""
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

    _add_named_by_hash(routes, sources)
    return routes


def _add_named_by_hash(routes: APIRouter, sources: Sources) -> None:
    shelf = sources.shelf

    @routes.get("/models/{sha256}", response_class=FileResponse)
    def model(request: Request, sha256: str) -> Response:
        """Send the tensor_codec bytes of the whole model with this SHA-256; only the last few models are kept."""
        return _named(request, shelf.model(sha256), f"model {sha256!r}; the round's plan names the current one")

    @routes.get("/differences/{sha256}", response_class=FileResponse)
    def difference(request: Request, sha256: str) -> Response:
        """Send the tensor_codec bytes of the model difference with this SHA-256; only the last one is kept."""
        words = f"difference {sha256!r}; a resync's plan names the current ones"
        return _named(request, shelf.difference(sha256), words)

    @routes.get("/releases/{sha256}", response_class=FileResponse)
    def release(request: Request, sha256: str) -> Response:
        """Send the archive of a release of the client with this SHA-256; the last 32 are kept."""
        return _named(request, shelf.release(sha256), f"release {sha256!r}; a device's newest offer names its own")

    @routes.get("/promoted/{sha256}", response_class=FileResponse)
    def promoted(request: Request, sha256: str) -> Response:
        """Send the promoted model, ONNX, with this SHA-256; that of each run's last promotion is kept."""
        return _named(request, shelf.promoted(sha256), f"promoted model {sha256!r}; the newest offer names it")


def _named(request: Request, file: Path | None, words: str) -> Response:
    """A file that its name says all about; `words` are for who asks for one that is not here."""
    if file is None:
        raise HTTPException(404, f"there is no {words}")
    return _immutable(request, file, file.name)


def _immutable(request: Request, file: Path, sha256: str) -> Response:
    headers = {"ETag": f'"{sha256}"', "Cache-Control": _FOR_EVER}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return FileResponse(file, headers=headers)
