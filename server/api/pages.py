"""Long lists page by page: each says where the next begins, so that nothing is shown twice as rows come and go."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

MOST_LISTED = 1000

T = TypeVar("T")

Limit = Annotated[int, Query(ge=1, le=MOST_LISTED, description="how many at most")]


class Page(BaseModel, Generic[T]):
    """A part of a list."""

    items: list[T] = Field(description="in the list's order")
    next: str | None = Field(description="`after` of the next page; null on the last one")


def page_of(rows: Sequence[T], limit: int, cursor: Callable[[T], object]) -> Page[T]:
    """A page of the first `limit` of `rows`, which has one more where the list goes on."""
    items = list(rows[:limit])
    return Page(items=items, next=str(cursor(items[-1])) if len(rows) > limit else None)
