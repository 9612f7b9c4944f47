"""Runs and their closed rounds."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException

from server.api.sources import Sources
from server.records import RoundRecord, RunRecord


def router(sources: Sources) -> APIRouter:
    """`GET /runs`, `/runs/{run}` and `/runs/{run}/rounds`."""
    routes = APIRouter(prefix="/runs", tags=["runs"])

    @routes.get("")
    def list_runs() -> tuple[RunRecord, ...]:
        """List all runs, the newest first."""
        return sources.store.runs()

    @routes.get("/{run}")
    def one_run(run: str) -> RunRecord:
        """Show a run's bundle, configuration and progress."""
        record = sources.store.run(run)
        if record is None:
            raise HTTPException(404, f"there is no run {run!r}; GET /api/v1/runs lists those there are")
        return record

    @routes.get("/{run}/rounds")
    def rounds(run: str) -> tuple[RoundRecord, ...]:
        """List a run's closed rounds in order."""
        one_run(run)
        return sources.store.rounds(run)

    return routes
