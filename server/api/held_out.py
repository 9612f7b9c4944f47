"""Held-out examples of a run: what its model is tested on after every round."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from fastapi import APIRouter, Request

from server.api.guarded_route import guarded_router
from server.api.names import RunName
from server.api.problems import problems
from server.api.sources import Sources
from server.api.uploads import binary_body, receive
from server.records import RunRecord

LARGEST = 512 * 2**20
"""Bytes of a file."""


def router(sources: Sources) -> APIRouter:
    """`POST /runs/{run}/held-out`."""
    routes = guarded_router(sources, "runs", keeps_replies=False)

    @routes.post(
        "/runs/{run}/held-out",
        responses=problems(404, 409, 413),
        openapi_extra=binary_body("application/octet-stream"),
        max_body_size=LARGEST,
    )
    async def hold_out(request: Request, run: RunName) -> RunRecord:
        """Test the model on these examples after every round: a .npz file, arrays x and y. Before the run is started.

        They take the place of those that the run had.
        """
        with TemporaryDirectory() as folder:
            return await sources.control.hold_out(run, await receive(request, Path(folder) / "test.npz"))

    return routes
