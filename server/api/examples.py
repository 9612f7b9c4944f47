"""Examples of answers for OpenAPI."""

from __future__ import annotations

from typing import Any


def shown(example: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route whose answer with this status looks like `example`."""
    return {status: {"content": {"application/json": {"example": example}}}}
