"""What was answered to requests that bear an idempotency key, for a day: one sent again is not carried out again.

Source: draft-ietf-httpapi-idempotency-key-header-07. An actor's keys are its own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select

from server import tables
from server.database import Database

KEPT_SECONDS = 24 * 3600.0
_columns = tables.replies.c


@dataclass(frozen=True)
class Reply:
    """An answer and the SHA-256 (32 bytes) of the request that it is to."""

    request: bytes
    status: int
    headers: Mapping[str, str]
    body: bytes


class Replies:
    """The answers in `database`; `clock` gives seconds since the Unix epoch. Any thread may use it."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def find(self, actor: str, key: str) -> Reply | None:
        """What was answered within the last day to this actor's request with this key."""
        is_it = (_columns.actor == actor) & (_columns.key == key) & (_columns.at > self._clock() - KEPT_SECONDS)
        query = select(_columns.request, _columns.status, _columns.headers, _columns.body).where(is_it)
        with self._database.transaction() as connection:
            row = connection.execute(query).mappings().one_or_none()
        return None if row is None else Reply(**row)

    def keep(self, actor: str, key: str, reply: Reply) -> None:
        """Remember an answer; those older than a day are forgotten."""
        now = self._clock()
        old = (_columns.at <= now - KEPT_SECONDS) | ((_columns.actor == actor) & (_columns.key == key))
        row = {"actor": actor, "key": key, "at": now, "request": reply.request, "status": reply.status}
        with self._database.transaction() as connection:
            connection.execute(delete(tables.replies).where(old))
            connection.execute(
                tables.replies.insert().values(row | {"headers": dict(reply.headers), "body": reply.body})
            )
