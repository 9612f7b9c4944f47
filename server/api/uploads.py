"""Files that come as the body of a request."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool


def binary_body(*kinds: str) -> dict[str, Any]:
    """What OpenAPI says of a body that is a file of one of these media types."""
    content = {kind: {"schema": {"type": "string", "format": "binary"}} for kind in kinds}
    return {"requestBody": {"required": True, "content": content}}


async def receive(request: Request, path: Path) -> Path:
    """Write the body to `path` as it comes; returns the path."""
    with path.open("wb") as file:
        async for block in request.stream():
            await run_in_threadpool(file.write, block)
    return path
