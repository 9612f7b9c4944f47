"""What happened in the fleet: read page by page, or followed live."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Query
from fastapi.sse import EventSourceResponse, ServerSentEvent

from server.api.sources import Sources
from server.event_log import MOST_LISTED, EventFilter, EventKind, EventRecord

_Kinds = Annotated[list[EventKind] | None, Query(description="only of these kinds; may be given several times")]
_Run = Annotated[str | None, Query(description="only of this run", max_length=64)]
_Device = Annotated[str | None, Query(description="only of this device", max_length=64)]
_Id = Annotated[int | None, Query(ge=0, le=2**62)]
_RETRY_MILLISECONDS = 2000


def router(sources: Sources) -> APIRouter:
    """`GET /events` and `/events/stream`."""
    routes = APIRouter(prefix="/events", tags=["events"])
    log = sources.store.events

    @routes.get("")
    def list_events(
        kind: _Kinds = None,
        run: _Run = None,
        device: _Device = None,
        after: _Id = None,
        before: _Id = None,
        limit: Annotated[int, Query(ge=1, le=MOST_LISTED)] = 100,
    ) -> tuple[EventRecord, ...]:
        """List events, the newest first, those with ids below `before`; with `after` the oldest first from there."""
        wanted = EventFilter(tuple(kind or ()), run, device)
        return log.newest(before, limit, wanted) if after is None else log.list(after, limit, wanted)

    @routes.get("/stream", response_class=EventSourceResponse)
    async def follow_events(
        kind: _Kinds = None,
        run: _Run = None,
        device: _Device = None,
        after: _Id = None,
        last_event_id: Annotated[int | None, Header(ge=0, le=2**62)] = None,
    ) -> AsyncIterator[ServerSentEvent]:
        """Follow events as server-sent events, from `Last-Event-ID` or `after` on, else from now."""
        start = last_event_id if last_event_id is not None else after
        if start is None:
            start = await asyncio.to_thread(log.last_id)
        yield ServerSentEvent(comment="events follow", retry=_RETRY_MILLISECONDS)
        async for record in log.follow(start, EventFilter(tuple(kind or ()), run, device)):
            yield ServerSentEvent(data=record, id=str(record.id))

    return routes
