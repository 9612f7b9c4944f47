"""What Prometheus scrapes, with a viewer's token."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from server.api.guarded_route import guarded_router
from server.api.sources import Sources


def router(sources: Sources) -> APIRouter:
    """`GET /metrics`."""
    routes = guarded_router(sources, "metrics")

    @routes.get("/metrics", response_class=Response)
    def metrics(request: Request) -> Response:
        """Say all metrics in the text format of Prometheus, or in OpenMetrics to those who accept it."""
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(sources.metrics), headers={"Content-Type": kind})

    return routes
