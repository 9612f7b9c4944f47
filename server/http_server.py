"""Run an ASGI application by uvicorn inside the caller's event loop, on a port that is known at once.

Signals stay the caller's: uvicorn's own handling of them is turned off.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

from server.errors import AddressError

_GRACE_SECONDS = 3
_POLL_SECONDS = 0.01


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Listens from construction on (port 0 takes a free one), answers from `start` to `stop`."""

    def __init__(self, application: ASGIApp, host: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            self._socket = socket.create_server((host, port), family=family, backlog=256)
        except OSError as error:
            raise AddressError(
                f"cannot listen on {host} port {port} ({error.strerror}): choose another host or port"
            ) from error
        config = uvicorn.Config(
            application,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_graceful_shutdown=_GRACE_SECONDS,
        )
        self._host = host
        self._server = _QuietServer(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """Base URL, without a slash at its end."""
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._socket.getsockname()[1]}"

    async def start(self) -> asyncio.Task[None]:
        """Answer requests; returns the task that does, when it does."""
        self._task = asyncio.create_task(self._server.serve(sockets=[self._socket]), name="http")
        while not self._server.started and not self._task.done():
            await asyncio.sleep(_POLL_SECONDS)
        return self._task

    async def stop(self) -> None:
        """End running downloads after a short grace, close the port."""
        self._server.should_exit = True
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)
        self._socket.close()
