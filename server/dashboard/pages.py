"""The pages that people look at: one shell for all, whose modules read the HTTP interface; nothing is built or fetched.

The Content-Security-Policy allows the server's own files and no inline script or style, so text that slipped through
unescaped could still do nothing. Names of devices come from outside: modules put text into pages as text only.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

_HERE = Path(__file__).parent
PAGES = ("/", "/runs", "/runs/{run}", "/new-run", "/models", "/updates", "/events", "/login")
"""The shell looks at its path and shows the page; each is a file in `static/pages`."""
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS: Mapping[str, str] = {
    "Content-Security-Policy": _POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def add_dashboard(app: FastAPI) -> None:
    """Pages at their paths, and their files under `/assets`; a browser asks each time whether a file has changed."""
    routes = APIRouter(include_in_schema=False)
    for path in PAGES:
        routes.add_api_route(path, _shell, methods=["GET"], response_class=FileResponse)
    app.include_router(routes)
    for name in ("static", "vendor"):
        app.mount(f"/assets/{name}", _Files(directory=_HERE / name))


def _shell() -> FileResponse:
    return FileResponse(_HERE / "static" / "index.html", headers=dict(HEADERS))


class _Files(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(HEADERS)
        return response
