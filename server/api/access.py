"""Who may do what: a bearer token (RFC 6750), or the cookie of a browser that has logged in with one.

Who reads needs any token, who changes something an operator's. A browser sends its cookie with every request, also with
one that another site's page makes it send; so a change by cookie must bear the header `X-Requested-With`, which no page
of another site can add (OWASP, Cross-Site Request Forgery Prevention: custom request headers).
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import HTTPException, Request, Security
from fastapi.params import Depends
from fastapi.security import APIKeyCookie, HTTPBearer
from starlette.concurrency import run_in_threadpool

from server.tokens import Role, TokenRecord, Tokens

COOKIE = "fisherfleet"
CSRF_HEADER = "X-Requested-With"
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
_CHALLENGE = {"WWW-Authenticate": 'Bearer realm="fisherfleet"'}

DESCRIBED: list[Depends] = [
    Security(HTTPBearer(auto_error=False, scheme_name="token", description="a token of `fisherfleet tokens create`")),
    Security(
        APIKeyCookie(
            name=COOKIE,
            auto_error=False,
            scheme_name="session",
            description=f"set by POST /login; changes need the header {CSRF_HEADER}, too",
        )
    ),
]
"""For a router's `dependencies`: they only tell OpenAPI what `authenticate` does."""


@dataclass(frozen=True)
class Caller:
    """Who sent a request, and whether a browser's cookie says so."""

    token: TokenRecord
    by_cookie: bool = False

    @property
    def name(self) -> str:
        """The token's name."""
        return self.token.name


def caller_of(request: Request) -> Caller:
    """Who sent a request to a guarded route; a dependency."""
    caller: Caller = request.state.caller
    return caller


async def authenticate(request: Request, tokens: Tokens) -> Caller:
    """Who sends a request; raises a 401 where no valid token says so."""
    text, by_cookie = _bearer(request), False
    if text is None:
        text, by_cookie = request.cookies.get(COOKIE), True
    if text is None:
        raise HTTPException(401, "no token: send it as Authorization: Bearer TOKEN", _CHALLENGE)
    record = await run_in_threadpool(tokens.holder, text)
    if record is None:
        raise HTTPException(401, "the token is unknown, revoked or expired", _CHALLENGE)
    return Caller(record, by_cookie)


def authorise(request: Request, caller: Caller, reading: Role) -> None:
    """Raise a 403 unless the caller may do what the request asks; `reading` is what role it takes to read."""
    safe = request.method in SAFE_METHODS
    needed = reading if safe else "operator"
    if needed == "operator" and caller.token.role != "operator":
        raise HTTPException(403, f"token {caller.name} is a viewer's, this takes an operator's")
    if caller.by_cookie and not safe and CSRF_HEADER not in request.headers:
        raise HTTPException(403, f"a change by cookie needs the header {CSRF_HEADER}")


def _bearer(request: Request) -> str | None:
    scheme, _, text = request.headers.get("Authorization", "").partition(" ")
    return text.strip() if scheme.lower() == "bearer" else None
