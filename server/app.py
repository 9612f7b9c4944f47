"""The HTTP interface as one application; everything it needs is given to `create_app`."""

from __future__ import annotations

from fastapi import FastAPI

from server.api import devices, downloads, events, health, metrics, runs
from server.api.byte_counter import ByteCounter
from server.api.sources import Sources

API_ROOT = "/api/v1"


def create_app(sources: Sources) -> FastAPI:
    """Routes under `/api/v1`, `/health` and `/metrics`; downloads are counted as traffic."""
    app = FastAPI(title="Fisherfleet", description="Federated learning for fleets of small computers")
    for section in (health, metrics):
        app.include_router(section.router(sources))
    for section in (runs, devices, downloads, events):
        app.include_router(section.router(sources), prefix=API_ROOT)
    app.add_middleware(ByteCounter, traffic=sources.traffic, prefixes=tuple(API_ROOT + p for p in downloads.PREFIXES))
    return app
