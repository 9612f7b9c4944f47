"""What happened in the fleet: read page by page, or followed live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server.api.guarded_route import guarded_router
from server.api.names import Identifier
from server.api.pages import Limit, Page, page_of
from server.api.sources import Sources
from server.event_log import EventFilter, EventKind, EventRecord

_LARGEST_ID = 2**53
_RETRY_MILLISECONDS = 2000
_SECONDS = 600.0
"""A stream ends then, and whoever follows comes again from its last id: a token that was revoked does not."""

_Id = Annotated[int | None, Query(ge=0, le=_LARGEST_ID, description="`next` of the page before")]
_Since = Annotated[int | None, Query(ge=0, le=_LARGEST_ID, description="id of the last event that is known")]
_LastId = Annotated[int | None, Header(ge=0, le=_LARGEST_ID, description="the same, as browsers say it")]


@dataclass(frozen=True)
class _Wanted:
    """Which events are asked for; None is any. A query's parameters."""

    kind: Annotated[list[EventKind] | None, Query(description="only of these kinds; may be given several times")] = None
    run: Annotated[Identifier | None, Query(description="only of this run")] = None
    device: Annotated[Identifier | None, Query(description="only of this device")] = None

    @property
    def filter(self) -> EventFilter:
        """As the event log takes it."""
        return EventFilter(tuple(self.kind or ()), self.run, self.device)


def router(sources: Sources) -> APIRouter:
    """`GET /events` and `/events/stream`."""
    routes = guarded_router(sources, "events")
    log = sources.store.events

    @routes.get("/events")
    def list_events(wanted: Annotated[_Wanted, Depends()], limit: Limit = 100, after: _Id = None) -> Page[EventRecord]:
        """List events, the newest first."""
        return page_of(log.newest(after, limit + 1, wanted.filter), limit, lambda event: event.id)

    @routes.get("/events/stream", response_class=EventSourceResponse)
    async def follow_events(
        wanted: Annotated[_Wanted, Depends()], since: _Since = None, last_event_id: _LastId = None
    ) -> AsyncIterator[ServerSentEvent]:
        """Follow events as server-sent events: those after `Last-Event-ID` or `since`, and each that comes; without
        either only what comes. A stream ends after ten minutes: go on from the last id.
        """
        start = last_event_id if last_event_id is not None else since
        if start is None:
            start = await asyncio.to_thread(log.last_id)
        yield ServerSentEvent(comment="events follow", retry=_RETRY_MILLISECONDS)
        async for record in log.follow(start, wanted.filter, _SECONDS):
            yield ServerSentEvent(data=record, id=str(record.id))

    return routes
