"""A browser's session: `POST /login` turns a token into a cookie that no script can read, `POST /logout` drops it."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, HTTPException, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from server.api.access import COOKIE
from server.api.problems import problems
from server.api.sources import Sources
from server.tokens import TokenRecord

_SECONDS = 12 * 3600
_LONGEST_TOKEN = 128


class Login(BaseModel):
    """What a person shows to be let in."""

    token: str = Field(min_length=1, max_length=_LONGEST_TOKEN, description="a token's text", examples=["fft_..."])


def router(sources: Sources) -> APIRouter:
    """`POST /login` and `POST /logout`."""
    routes = APIRouter(tags=["session"])

    @routes.post("/login", responses=problems(400, 401, 422, 503))
    async def login(login: Login, request: Request, response: Response) -> TokenRecord:
        """Log a browser in with a token, for 12 hours; answers who that is."""
        record = await run_in_threadpool(sources.store.tokens.holder, login.token)
        if record is None:
            raise HTTPException(401, "the token is unknown, revoked or expired", {"WWW-Authenticate": "Bearer"})
        response.set_cookie(
            COOKIE,
            login.token,
            max_age=_SECONDS,
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )
        response.headers["Cache-Control"] = "no-store"
        await run_in_threadpool(partial(sources.store.events.write, "audit", "logged in", actor=record.name))
        return record

    @routes.post("/logout", status_code=204)
    async def logout(response: Response) -> None:
        """Log a browser out. The token goes on to be valid elsewhere: revoke it to end that."""
        response.delete_cookie(COOKIE, httponly=True, samesite="strict")

    return routes
