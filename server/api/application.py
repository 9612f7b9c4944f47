"""FastAPI with what it leaves open: problems in its description, and for bodies whose declared length is too much."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.api.problems import MEDIA_TYPE, answer


class Application(FastAPI):
    """An application whose every error is a problem (RFC 9457)."""

    def openapi(self) -> dict[str, Any]:
        """OpenAPI, made once, with errors as `application/problem+json`."""
        made = self.openapi_schema is not None
        schema = super().openapi()
        if not made:
            for operations in schema["paths"].values():
                for operation in operations.values():
                    _name_problems(operation["responses"])
        return schema

    def build_middleware_stack(self) -> ASGIApp:
        """Starlette answers a body that is declared too long in plain text, outside of all error handlers."""
        return _TooLargeIsAProblem(super().build_middleware_stack())


class _TooLargeIsAProblem:
    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        replaced = False

        async def replacing(message: Message) -> None:
            nonlocal replaced
            if message["type"] == "http.response.start" and message["status"] == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                replaced = True
                await answer(413, f"{scope['path']}: the request is too large")(scope, receive, send)
            elif not replaced:
                await send(message)

        await self._app(scope, receive, replacing)


def _name_problems(responses: dict[str, Any]) -> None:
    for response in responses.values():
        described = response.get("content", {}).get("application/json", {}).get("schema", {})
        if described.get("$ref", "").endswith("/Problem"):
            response["content"][MEDIA_TYPE] = response["content"].pop("application/json")
