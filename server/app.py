"""The HTTP interface as one application; everything it needs is given to `create_app`."""

from __future__ import annotations

from importlib.metadata import version

from fastapi import FastAPI

from server.api import (
    bundles,
    devices,
    downloads,
    enrolments,
    events,
    health,
    held_out,
    insight,
    me,
    metrics,
    models,
    releases,
    runs,
    session,
    tokens,
)
from server.api.application import Application
from server.api.byte_counter import ByteCounter
from server.api.problems import add_problem_handlers
from server.api.sources import Sources
from server.dashboard.pages import add_dashboard

API_ROOT = "/api/v1"
_WORDS = """Federated learning for fleets of small computers.

Send a token as `Authorization: Bearer TOKEN`; `fisherfleet tokens create` makes one. Only what devices fetch by its
hash, `/health` and enrolment, which has tokens of its own, take none. A **viewer** reads, an **operator** changes
things too.

* Lists come in pages: as long as `next` is not null, ask again with it as `after`.
* A read is answered with an `ETag`; with `If-None-Match` the answer is 304 when nothing has changed.
* A `POST` with an `Idempotency-Key` of your choice is carried out once: sent again within 24 hours it is answered as
  the first time. What is answered with a secret, or is named by its content, takes no key.
* Errors are `application/problem+json` (RFC 9457); `detail` says what was wrong.
"""
_LARGEST_BODY = 1024 * 1024
"""Bytes of a request, where a route says nothing else."""


def create_app(sources: Sources) -> FastAPI:
    """Routes under `/api/v1`, `/login`, `/logout`, `/health` and `/metrics`; downloads are counted as traffic."""
    app = Application(
        title="Fisherfleet", description=_WORDS, version=version("fisherfleet"), max_body_size=_LARGEST_BODY
    )
    for section in (health, metrics, session):
        app.include_router(section.router(sources))
    things = (me, runs, held_out, models, bundles, devices, enrolments, tokens, events, insight, releases, downloads)
    for section in things:
        app.include_router(section.router(sources), prefix=API_ROOT)
    add_dashboard(app)
    add_problem_handlers(app)
    app.add_middleware(ByteCounter, traffic=sources.traffic, prefixes=tuple(API_ROOT + p for p in downloads.PREFIXES))
    return app
