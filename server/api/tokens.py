"""Tokens: who may use this interface."""

from __future__ import annotations

from fastapi import APIRouter, HTTPException, Response
from pydantic import BaseModel, Field

from server.api.examples import shown
from server.api.guarded_route import guarded_router
from server.api.names import AfterName, Identifier, TokenName
from server.api.pages import Limit, Page, page_of
from server.api.problems import problems
from server.api.sources import Sources
from server.tokens import Role, TokenRecord

_TOKEN = {"name": "dashboard", "role": "viewer", "created": 1764326400.0, "expires": None, "revoked": None}
_LAST_SECOND = 253_402_300_799
"""Of the year 9999."""


class NewToken(BaseModel):
    """A token to be made."""

    name: Identifier = Field(description="whose it is", examples=["dashboard"])
    role: Role = Field(description="a viewer reads, an operator changes things too", examples=["viewer"])
    expires: float | None = Field(
        default=None, ge=0, le=_LAST_SECOND, description="seconds since 1970; null: never", examples=[None]
    )


class MadeToken(BaseModel):
    """A token that was made; its text is shown this once."""

    name: str = Field(examples=["dashboard"])
    token: str = Field(examples=["fft_Zkd1o0m2vW3xq8Jt5nYc7LbA9sEe4RuG6hPiTfQlXwM"])


def router(sources: Sources) -> APIRouter:
    """Everything under `/tokens`."""
    routes = guarded_router(sources, "tokens", reading="operator", keeps_replies=False)
    tokens = sources.store.tokens

    @routes.get("/tokens", responses=shown({"items": [_TOKEN], "next": None}))
    def list_tokens(limit: Limit = 100, after: AfterName = None) -> Page[TokenRecord]:
        """List tokens by name, also those that are over; never their texts."""
        records = [record for record in tokens.list() if after is None or record.name > after]
        return page_of(records[: limit + 1], limit, lambda record: record.name)

    @routes.post("/tokens", status_code=201, responses=problems(409))
    def create_token(new: NewToken, response: Response) -> MadeToken:
        """Make a token. Its text is in this answer and nowhere else: only its hash is kept."""
        response.headers["Cache-Control"] = "no-store"
        return MadeToken(name=new.name, token=tokens.create(new.name, new.role, new.expires))

    @routes.delete("/tokens/{name}", responses=problems(404) | shown(_TOKEN | {"revoked": 1764330000.0}))
    def revoke_token(name: TokenName) -> TokenRecord:
        """Let a token open nothing any more, from the next request on. May be repeated."""
        record = tokens.revoke(name)
        if record is None:
            raise HTTPException(404, f"there is no token {name!r}; GET /api/v1/tokens lists those there are")
        return record

    return routes
