"""Who a token is."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends

from server.api.access import Caller, caller_of
from server.api.examples import shown
from server.api.guarded_route import guarded_router
from server.api.sources import Sources
from server.tokens import TokenRecord

_ME = {"name": "anna", "role": "operator", "created": 1764326400.0, "expires": None, "revoked": None}


def router(sources: Sources) -> APIRouter:
    """`GET /me`."""
    routes = guarded_router(sources, "tokens")

    @routes.get("/me", responses=shown(_ME))
    def who_am_i(caller: Annotated[Caller, Depends(caller_of)]) -> TokenRecord:
        """Show the name, role and end of the token that this request bears."""
        return caller.token

    return routes
