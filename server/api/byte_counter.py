"""Plain ASGI middleware that counts the body bytes of answers under some paths as traffic to devices."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.traffic import Traffic


class ByteCounter:
    """Counts what was really handed to the connection, so a broken download counts for what it sent."""

    def __init__(self, app: ASGIApp, traffic: Traffic, prefixes: tuple[str, ...]) -> None:
        self._app = app
        self._traffic = traffic
        self._prefixes = prefixes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def counting(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.body":
                self._traffic.sent(len(message.get("body", b"")))

        counted = scope["type"] == "http" and scope["path"].startswith(self._prefixes)
        await self._app(scope, receive, counting if counted else send)
