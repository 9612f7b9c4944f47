"""Releases of the client: uploaded, rolled out to devices, and what came of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Request
from fastapi import Path as InPath
from pydantic import BaseModel, Field, StringConstraints
from starlette.concurrency import run_in_threadpool

from server.api.examples import shown
from server.api.guarded_route import guarded_router
from server.api.names import AfterName, Identifier
from server.api.pages import Limit, Page, page_of
from server.api.problems import problems
from server.api.sources import Sources
from server.api.uploads import binary_body, receive
from server.operator_keys import load_operator
from server.releases.release_file import LARGEST_FILE, read_release_file
from server.releases.release_post import ReleaseRecords
from server.releases.release_rows import ReleaseRecord, ReportRecord, RolloutRecord
from server.releases.rollout import MOST_DEVICES, Progress, Rollout

_SHOWN = 16
"""Names in an error."""
_SHA256 = "6ac3c336e4094835293a3fed8a4b5fedde1b5e2626d9838fed50693bba00af0e"
_RELEASE: dict[str, Any] = {
    "sha256": _SHA256,
    "version": "0.2.0",
    "system": "trixie",
    "python": "3.13",
    "architecture": "aarch64",
    "size": 30_412_160,
    "at": 1764326400.0,
}
_ROLLOUT: dict[str, Any] = {
    "id": 3,
    "version": "0.2.0",
    "attempt": 1,
    "devices": [],
    "tag": "floor-2",
    "fraction": 0.1,
    "halt_at": 0.1,
    "status": "going",
    "reason": "",
    "actor": "kim",
    "at": 1764326400.0,
    "members": 40,
    "offered": 4,
    "confirmed": 2,
    "failed": 0,
    "trying": 1,
}
_REPORT: dict[str, Any] = {
    "device": "kitchen",
    "version": "0.1.0",
    "offered": "0.2.0",
    "attempt": 1,
    "status": "fetching",
    "reason": "",
    "models": {"digits": 12},
    "at": 1764326400.0,
}

VersionName = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,8})(\.(0|[1-9][0-9]{0,8})){1,3}$")]
RolloutId = Annotated[int, InPath(ge=1, le=2**31 - 1, description="number of a rollout", examples=[3])]


class Order(BaseModel):
    """A version to offer: to `devices`, to those with `tag`, or, without either, to all."""

    version: VersionName = Field(examples=["0.2.0"])
    devices: list[Identifier] = Field(default=[], max_length=MOST_DEVICES, examples=[[]])
    tag: Identifier | None = Field(default=None, examples=["floor-2"])
    fraction: float = Field(default=1.0, gt=0, le=1, description="the share of them that is offered it first")
    halt_at: float = Field(default=0.1, ge=0, le=1, description="it halts above this share of failures")
    again: bool = Field(default=False, description="also where this version failed before")


@dataclass(frozen=True)
class RolloutView:
    """A rollout as it was ordered and how it stands; counts are of devices."""

    id: int
    version: str
    attempt: int
    devices: tuple[str, ...]
    tag: str | None
    fraction: float
    halt_at: float
    status: str
    reason: str
    actor: str
    at: float
    members: int
    offered: int
    confirmed: int
    failed: int
    trying: int


def router(sources: Sources) -> APIRouter:
    """`/releases`, `/rollouts` and `/release-reports`."""
    uploads = guarded_router(sources, "releases", keeps_replies=False)
    _add_releases(uploads, sources)
    orders = guarded_router(sources, "releases")
    _add_rollouts(orders, sources)
    _add_reports(orders, sources)
    both = APIRouter()
    for routes in (uploads, orders):
        both.include_router(routes)
    return both


def _add_releases(routes: APIRouter, sources: Sources) -> None:
    rows = sources.store.releases

    @routes.get("/releases", responses=shown({"items": [_RELEASE], "next": None}))
    def list_releases() -> Page[ReleaseRecord]:
        """List the releases of the client that are here, the newest first; the last few are, so there is one page."""
        return Page(items=list(rows.releases()), next=None)

    @routes.post(
        "/releases",
        status_code=201,
        responses=problems(409, 413) | shown(_RELEASE, 201),
        openapi_extra=binary_body("application/x-tar", "application/octet-stream"),
        max_body_size=LARGEST_FILE,
    )
    async def add_release(request: Request) -> ReleaseRecord:
        """Add what `fisherfleet devices make-release` made; nobody is offered it yet. Again is as good as once."""
        with TemporaryDirectory() as folder:
            file = await receive(request, Path(folder) / "release")
            return await run_in_threadpool(_add, sources, file)


def _add(sources: Sources, file: Path) -> ReleaseRecord:
    operator = load_operator(sources.fleet.path)
    trusted = [identity.public for identity in operator.identities]
    return sources.store.releases.add(*read_release_file(file, operator.fleet, trusted))


def _add_rollouts(routes: APIRouter, sources: Sources) -> None:
    rows = sources.store.releases

    @routes.get("/rollouts", responses=shown({"items": [_ROLLOUT], "next": None}))
    def list_rollouts(
        limit: Limit = 100,
        after: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="`next` of the page before")] = None,
    ) -> Page[RolloutView]:
        """List rollouts, the newest first. Of those that a device belongs to, the newest decides what it is offered."""
        found = [_view(record, stands) for record, stands in _records(sources).standing()]
        views = [view for view in found if after is None or view.id < after]
        return page_of(views[: limit + 1], limit, lambda view: view.id)

    @routes.post("/rollouts", status_code=201, responses=problems(404) | shown(_ROLLOUT, 201))
    def add_rollout(order: Order, request: Request) -> RolloutView:
        """Offer a release to devices; those whose owners allow it take it between two rounds."""
        _require_enrolled(sources, order.devices)
        rollout = Rollout(
            version=order.version,
            devices=tuple(order.devices),
            tag=order.tag,
            fraction=order.fraction,
            halt_at=order.halt_at,
        )
        record = rows.roll_out(rollout, request.state.caller.name, again=order.again)
        sources.offers_changed()
        return _standing(sources, record.id)

    @routes.post("/rollouts/{rollout}/halt", responses=problems(404) | shown(_ROLLOUT | {"status": "halted"}))
    def halt_rollout(rollout: RolloutId, request: Request) -> RolloutView:
        """Offer it to nobody any more; devices that have it keep it. May be repeated."""
        rows.halt(rollout, f"halted by {request.state.caller.name}")
        sources.offers_changed()
        return _standing(sources, rollout)


def _require_enrolled(sources: Sources, devices: list[str]) -> None:
    """A device is offered nothing unless it is enrolled; one that was revoked stays so."""
    enrolled = sources.registry.devices()
    missing = [repr(name) for name in devices if name not in enrolled or enrolled[name].revoked]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        names = ", ".join(missing[:_SHOWN]) + more
        raise HTTPException(404, f"not enrolled: {names}; GET /api/v1/devices lists those there are")


def _add_reports(routes: APIRouter, sources: Sources) -> None:
    @routes.get("/release-reports", responses=shown({"items": [_REPORT], "next": None}))
    def list_reports(limit: Limit = 100, after: AfterName = None) -> Page[ReportRecord]:
        """List by device what each runs and what became of what it was offered, as it last said."""
        reports = [one for one in sources.store.releases.reports() if after is None or one.device > after]
        return page_of(reports[: limit + 1], limit, lambda report: report.device)


def _records(sources: Sources) -> ReleaseRecords:
    return ReleaseRecords.of(sources.store, sources.registry)


def _standing(sources: Sources, number: int) -> RolloutView:
    return next(_view(record, stands) for record, stands in _records(sources).standing() if record.id == number)


def _view(record: RolloutRecord, stands: Progress) -> RolloutView:
    ordered = record.rollout
    return RolloutView(
        id=record.id,
        version=ordered.version,
        attempt=ordered.attempt,
        devices=ordered.devices,
        tag=ordered.tag,
        fraction=ordered.fraction,
        halt_at=ordered.halt_at,
        status=record.status,
        reason=record.reason,
        actor=record.actor,
        at=record.at,
        members=len(stands.everybody),
        offered=len(stands.offered) if record.status == "going" else 0,
        confirmed=stands.confirmed,
        failed=stands.failed,
        trying=stands.trying,
    )
