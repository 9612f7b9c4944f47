"""Whether the service is alive, and whether it can do its work now."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Response

from server.api.sources import Sources
from server.readiness import Readiness, readiness


@dataclass(frozen=True)
class Health:
    """The service answers; `broker` tells of its link."""

    status: Literal["ok"]
    broker: Literal["connected", "disconnected"]


def router(sources: Sources) -> APIRouter:
    """`GET /health`, `/health/live` and `/health/ready`."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    def health() -> Health:
        """Answer 200 while the service is alive, whatever the broker does."""
        return Health("ok", "connected" if sources.broker_connected() else "disconnected")

    @routes.get("/health/live")
    def live() -> Literal["ok"]:
        """Answer 200 while the process answers at all; where it does not, start it again."""
        return "ok"

    @routes.get("/health/ready", responses={503: {"model": Readiness, "description": "What is not ok says why"}})
    def ready(response: Response) -> Readiness:
        """Answer 200 while rounds can go on: the database takes writes, the broker is there, the disk has room."""
        found = readiness(sources.store, sources.broker_connected())
        response.status_code = 200 if found.ready else 503
        return found

    return routes
