"""Routes that take a token: who calls is known before anything of the request is read.

A read is answered with an ETag, and with 304 to who has the answer already (RFC 9110, 8.8.3 and 13.1.2). A change is
carried out once for each `Idempotency-Key` of a caller. Who asks for one is in the event log before it is carried out,
and what came of it before that is answered, also when it was refused: a kill in between leaves it as begun.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, HTTPException, Request, Response
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from server.api import access
from server.api.problems import problems, status_of
from server.api.sources import Sources
from server.errors import StorageError
from server.replies import Reply
from server.tokens import Role

logger = logging.getLogger(__name__)

IDEMPOTENCY_HEADER = "Idempotency-Key"
_LONGEST_KEY = 128
_KEPT_HEADERS = ("content-type", "location", "etag")
_ETAG_DIGITS = 32

Handler = Callable[[Request], Coroutine[Any, Any, Response]]


def guarded_router(sources: Sources, tag: str, *, reading: Role = "viewer", keeps_replies: bool = True) -> APIRouter:
    """A router whose routes are guarded as the module says; `reading` is the role that it takes to read.

    With `keeps_replies` False its answers hold secrets, which are never written down, or its requests are too large to
    be told apart, and idempotency keys mean nothing to it.
    """
    guard = _Guard(sources, reading, keeps_replies)

    class GuardedRoute(APIRoute):
        def __init__(self, path: str, endpoint: Callable[..., Any], **settings: Any) -> None:
            if keeps_replies and "POST" in settings["methods"]:
                settings["dependencies"] = [*(settings.get("dependencies") or ()), Depends(_takes_key)]
            super().__init__(path, endpoint, **settings)

        def get_route_handler(self) -> Handler:
            return guard.around(super().get_route_handler())

    return APIRouter(
        tags=[tag], route_class=GuardedRoute, dependencies=access.DESCRIBED, responses=problems(400, 401, 403, 422, 503)
    )


def _takes_key(
    idempotency_key: Annotated[
        str | None,
        Header(min_length=1, max_length=_LONGEST_KEY, description="a text of your choice; the request is done once"),
    ] = None,
) -> None:
    """Tell OpenAPI of the header, and refuse one that is too long."""


def etag_of(content: bytes) -> str:
    """A strong entity tag of an answer's bytes."""
    return f'"{sha256(content).hexdigest()[:_ETAG_DIGITS]}"'


def names_etag(header: str | None, etag: str) -> bool:
    """Whether an If-Match or If-None-Match header names an entity tag, or any."""
    return header is not None and any(one.strip().removeprefix("W/") in (etag, "*") for one in header.split(","))


class _Guard:
    def __init__(self, sources: Sources, reading: Role, keeps_replies: bool) -> None:
        self._sources = sources
        self._reading: Role = reading
        self._keeps_replies = keeps_replies
        self._under_way: set[tuple[str, str]] = set()

    def around(self, answer: Handler) -> Handler:
        async def guarded(request: Request) -> Response:
            caller = await access.authenticate(request, self._sources.store.tokens)
            request.state.caller = caller
            if request.method in access.SAFE_METHODS:
                access.authorise(request, caller, self._reading)
                return _conditional(request, await answer(request))
            return await self._audited(request, caller, answer)

        return guarded

    async def _audited(self, request: Request, caller: access.Caller, answer: Handler) -> Response:
        status, order = 500, f"{request.method} {request.url.path}"
        audit = await run_in_threadpool(self._begin_audit, request, caller, order)
        try:
            access.authorise(request, caller, self._reading)
            response = await self._once(request, caller, answer)
            status = response.status_code
        except Exception as error:
            status = status_of(error)
            raise
        finally:
            await asyncio.shield(run_in_threadpool(self._end_audit, audit, f"{order}: {status}"))
        return response

    def _begin_audit(self, request: Request, caller: access.Caller, order: str) -> int:
        named = {name: request.path_params.get(name) for name in ("run", "device")}
        return self._sources.store.events.write("audit", f"{order}: begun", actor=caller.name, **named)

    def _end_audit(self, audit: int, text: str) -> None:
        try:
            self._sources.store.events.reword(audit, text)
        except StorageError as error:
            logger.error("what came of it could not be written down: %s: %s", text, error)

    async def _once(self, request: Request, caller: access.Caller, answer: Handler) -> Response:
        key = request.headers.get(IDEMPOTENCY_HEADER)
        if key is None or request.method != "POST" or not self._keeps_replies:
            return await answer(request)
        mark = (caller.name, key)
        if mark in self._under_way:
            raise HTTPException(409, f"the request with {IDEMPOTENCY_HEADER} {key!r} is still under way")
        self._under_way.add(mark)
        try:
            return await self._answer_once(request, mark, answer)
        finally:
            self._under_way.discard(mark)

    async def _answer_once(self, request: Request, mark: tuple[str, str], answer: Handler) -> Response:
        replies, asked = self._sources.store.replies, await _digest(request)
        known = await run_in_threadpool(replies.find, *mark)
        if known is not None and known.request != asked:
            raise HTTPException(422, f"{IDEMPOTENCY_HEADER} {mark[1]!r} was used for another request: choose a new one")
        if known is not None:
            return Response(known.body, known.status, {**known.headers, "Idempotent-Replayed": "true"})
        response = await answer(request)
        headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
        reply = Reply(asked, response.status_code, headers, bytes(response.body))
        await asyncio.shield(run_in_threadpool(replies.keep, *mark, reply))
        return response


async def _digest(request: Request) -> bytes:
    digest = sha256(f"{request.method} {request.url.path}?{request.url.query}\n".encode())
    digest.update(await request.body())
    return digest.digest()


def _conditional(request: Request, response: Response) -> Response:
    body = getattr(response, "body", None)
    if response.status_code != 200 or not isinstance(body, bytes) or "etag" in response.headers:
        return response
    etag = etag_of(body)
    if names_etag(request.headers.get("If-None-Match"), etag):
        return Response(status_code=304, headers={"ETag": etag, "Cache-Control": "private, no-cache"})
    response.headers["ETag"] = etag
    response.headers["Cache-Control"] = "private, no-cache"
    return response
