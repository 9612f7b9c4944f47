"""The HTTP interface as one application; everything it needs is given to `create_app`."""

from __future__ import annotations

from fastapi import FastAPI

from server.api import devices, downloads, events, health, insight, me, runs, session, tokens
from server.api.byte_counter import ByteCounter
from server.api.description import describe
from server.api.problems import add_problem_handlers
from server.api.sources import Sources
from server.dashboard.pages import add_dashboard

API_ROOT = "/api/v1"
_LARGEST_BODY = 1024 * 1024
"""Bytes of a request, where a route says nothing else."""


def create_app(sources: Sources) -> FastAPI:
    """Routes under `/api/v1`, `/login`, `/logout` and `/health`; downloads are counted as traffic."""
    app = FastAPI(title="Fisherfleet", max_body_size=_LARGEST_BODY)
    for section in (health, session):
        app.include_router(section.router(sources))
    for section in (me, runs, devices, tokens, events, insight, downloads):
        app.include_router(section.router(sources), prefix=API_ROOT)
    add_dashboard(app)
    add_problem_handlers(app)
    app.add_middleware(ByteCounter, traffic=sources.traffic, prefixes=tuple(API_ROOT + p for p in downloads.PREFIXES))
    describe(app)
    return app
