"""What routes that send files may answer, for OpenAPI."""

from __future__ import annotations

from typing import Any

from server.api.problems import problems

_CONTENT = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
FILE: dict[int | str, dict[str, Any]] = {
    **problems(404, 416, 422),
    200: {"content": _CONTENT, "description": "the whole file"},
    206: {"content": _CONTENT, "description": "the range asked for"},
    304: {"description": "the file is what If-None-Match names"},
}
