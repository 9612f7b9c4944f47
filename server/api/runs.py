"""Runs, their closed rounds, and orders to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field

from server.api.examples import shown
from server.api.guarded_route import guarded_router
from server.api.names import AfterName, Identifier, RunName, Sha256
from server.api.pages import Limit, Page, page_of
from server.api.problems import problems
from server.api.sources import Sources
from server.config import RunConfig
from server.control import Control
from server.records import RoundRecord, RunRecord
from server.run_codec import run_values

_ORDERS = {
    "start": "Let a created run begin: it opens rounds as soon as its turn comes and enough devices are online.",
    "pause": "Open no other round. The one that is open goes on to its close.",
    "resume": "Let a paused run go on.",
    "stop": "End a run for good. Its open round is abandoned, its model stays.",
    "resync": "Make the next round a resync: every device gets the whole model and chooses its neurons afresh.",
}
_RUN = {
    "run": "digits",
    "bundle": "6ac3c336e4094835293a3fed8a4b5fedde1b5e2626d9838fed50693bba00af0e",
    "started": 1764326400.0,
    "config": {"rounds": 40, "keep": 0.5},
    "rounds_closed": 12,
    "status": "running",
    "reason": "",
}
_ROUND = {
    "round": 1,
    "resync": True,
    "accuracy": 0.87,
    "loss": 0.4,
    "updates_accepted": 8,
    "updates_rejected": 0,
    "bytes_up": 82_000,
    "bytes_down": 824_000,
    "bytes_up_dense": 1_974_592,
    "bytes_down_dense": 1_974_592,
    "trained_macs": 123_000_000,
    "scored_macs": 9_000_000,
    "full_macs": 330_000_000,
    "seconds": 4.2,
    "model_version": 1,
    "updates_late": 0,
}
_SHOWN = shown(_RUN)
_ORDERED = problems(404, 409)


class NewRun(BaseModel):
    """A run to be made."""

    run: Identifier = Field(description="its name", examples=["digits"])
    bundle: Sha256 = Field(description="id of a bundle that is here: GET /api/v1/bundles", examples=[_RUN["bundle"]])
    config: dict[str, Any] = Field(
        description="how it trains, by the names of GET /api/v1/run-defaults; `privacy` must be said: `none`, or an "
        "object of `type` record or device with `clip_norm` and `noise_multiplier`, or an `epsilon` in its place",
        examples=[{"rounds": 40, "keep": 0.5, "privacy": "none"}],
    )


class CloneOf(BaseModel):
    """A run to be made like another."""

    run: Identifier = Field(description="name of the new run", examples=["digits-2"])


class RollBackTo(BaseModel):
    """A model version to go back to."""

    version: int = Field(ge=0, le=2**53, description="number of an archived version", examples=[7])


def router(sources: Sources) -> APIRouter:
    """Everything under `/runs`."""
    routes = guarded_router(sources, "runs")
    _add_reading(routes, sources)
    _add_making(routes, sources.control)
    for order, words in _ORDERS.items():
        _add_order(routes, order, words, getattr(sources.control, order))
    return routes


def _add_reading(routes: APIRouter, sources: Sources) -> None:
    @routes.get("/runs", responses=shown({"items": [_RUN], "next": None}))
    def list_runs(limit: Limit = 100, after: AfterName = None) -> Page[RunRecord]:
        """List runs, the newest first."""
        records = sources.store.runs()
        names = [record.run for record in records]
        begin = names.index(after) + 1 if after in names else 0
        return page_of(records[begin : begin + limit + 1], limit, lambda record: record.run)

    @routes.get("/run-defaults", responses=shown({"rounds": 40, "keep": 0.5}))
    def show_run_defaults() -> dict[str, Any]:
        """Show what a new run's configuration may name, each with its value where it is left out."""
        return {name: value for name, value in run_values(RunConfig()).items() if name not in ("run", "privacy")}

    @routes.get("/runs/{run}", responses=problems(404) | _SHOWN)
    def get_run(run: RunName) -> RunRecord:
        """Show a run's bundle, configuration, status and progress."""
        return sources.require_run(run)

    @routes.get("/runs/{run}/rounds", responses=problems(404) | shown({"items": [_ROUND], "next": None}))
    def list_rounds(
        run: RunName,
        limit: Limit = 100,
        after: Annotated[int, Query(ge=0, le=2**53, description="`next` of the page before")] = 0,
    ) -> Page[RoundRecord]:
        """List a run's closed rounds in order."""
        sources.require_run(run)
        return page_of(sources.store.rounds(run, after, limit + 1), limit, lambda record: record.round)


def _add_making(routes: APIRouter, control: Control) -> None:
    @routes.post("/runs", status_code=201, responses=_ORDERED | shown(_RUN, 201))
    async def create_run(new: NewRun, response: Response) -> RunRecord:
        """Make a run of a bundle. It trains nothing until it is started."""
        return _made(response, await control.create(new.run, new.bundle, new.config))

    @routes.post("/runs/{run}/clone", status_code=201, responses=_ORDERED | shown(_RUN, 201))
    async def clone_run(run: RunName, clone: CloneOf, response: Response) -> RunRecord:
        """Make a run of the same bundle and configuration. It trains nothing until it is started."""
        return _made(response, await control.clone(run, clone.run))

    @routes.post("/runs/{run}/roll-back", responses=_ORDERED | _SHOWN)
    async def roll_back_run(run: RunName, to: RollBackTo) -> RunRecord:
        """Start the next round from an archived model version, which becomes a new version with the old content."""
        return await control.roll_back(run, to.version)


def _add_order(routes: APIRouter, order: str, words: str, carry_out: Callable[[str], Awaitable[RunRecord]]) -> None:
    async def ordered(run: RunName) -> RunRecord:
        return await carry_out(run)

    path, name = f"/runs/{{run}}/{order}", f"{order}_run"
    routes.add_api_route(path, ordered, methods=["POST"], name=name, description=words, responses=_ORDERED | _SHOWN)


def _made(response: Response, record: RunRecord) -> RunRecord:
    response.headers["Location"] = f"/api/v1/runs/{record.run}"
    return record
