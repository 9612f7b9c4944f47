"""Whether the service is alive."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter

from server.api.sources import Sources


@dataclass(frozen=True)
class Health:
    """The service answers; `broker` tells of its link."""

    status: Literal["ok"]
    broker: Literal["connected", "disconnected"]


def router(sources: Sources) -> APIRouter:
    """`GET /health`."""
    routes = APIRouter(tags=["health"])

    @routes.get("/health")
    def health() -> Health:
        """Answer 200 while the service is alive, whatever the broker does."""
        return Health("ok", "connected" if sources.broker_connected() else "disconnected")

    return routes
