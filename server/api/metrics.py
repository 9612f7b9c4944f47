"""What Prometheus scrapes."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import choose_encoder

from server.api.sources import Sources


def router(sources: Sources) -> APIRouter:
    """`GET /metrics`."""
    routes = APIRouter(tags=["metrics"])

    @routes.get("/metrics", response_class=Response)
    def metrics(request: Request) -> Response:
        """Say all metrics in the text format of Prometheus, or in OpenMetrics to those who accept it."""
        encode, kind = choose_encoder(request.headers.get("Accept", ""))
        return Response(encode(sources.metrics), headers={"Content-Type": kind})

    return routes
