"""Tokens that people and programs show to the HTTP interface: 32 random bytes, known here by their SHA-256 only.

A slow, salted hash protects secrets that can be guessed; among 2^256 random ones nobody finds another by trying, so a
fast hash loses nothing (NIST SP 800-63B, 5.1.2.2: look-up secrets of 112 bits and more). A token is found by its hash,
which tells the time nothing about the token, and the hashes are compared in constant time.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from math import isfinite
from typing import Any, Literal, get_args

from sqlalchemy import RowMapping, select, update
from sqlalchemy.exc import IntegrityError

from server import tables
from server.database import Database
from server.errors import TokenError
from wire_protocol.errors import require
from wire_protocol.topics import require_identifier

Role = Literal["viewer", "operator"]
"""A viewer reads, an operator changes things too."""

TOKEN_PREFIX = "fft_"
"""Begins every token, so that people and scanners for lost secrets know one when they see it."""
_TOKEN_BYTES = 32
_columns = tables.tokens.c


@dataclass(frozen=True)
class TokenRecord:
    """A token as it is known here: never its text. Times are in seconds since the Unix epoch, `expires` None: never."""

    name: str
    role: Role
    created: float
    expires: float | None = None
    revoked: float | None = None


class Tokens:
    """The tokens in `database`; `clock` gives seconds since the Unix epoch. Any thread may use it."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def create(self, name: str, role: Role, expires: float | None = None) -> str:
        """Make a token and return its text, which nothing can show again.

        Raises `InvalidValueError`, and `TokenError` where the name is taken, by a revoked token too: what an old event
        says of an actor must go on to mean the same one.
        """
        now = self._clock()
        require_identifier("name", name)
        require(role in get_args(Role), "role", role, f"one of {', '.join(get_args(Role))}")
        legal = expires is None or (isfinite(expires) and expires > now)
        require(legal, "expires", expires, f"after now, {now:.0f}, in seconds since 1970")
        text = TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
        row = {"name": name, "sha256": _hash(text), "role": role, "created": now, "expires": expires}
        with self._database.transaction() as connection:
            try:
                connection.execute(tables.tokens.insert().values(row))
            except IntegrityError as error:
                raise TokenError(f"name {name!r} is taken: choose another name for the new token") from error
        return text

    def holder(self, text: str) -> TokenRecord | None:
        """Whose token this is; None for a text that is none, for a revoked and for an expired one."""
        given = _hash(text)
        with self._database.transaction() as connection:
            row = connection.execute(select(tables.tokens).where(_columns.sha256 == given)).mappings().one_or_none()
        if row is None or not compare_digest(row["sha256"], given) or row["revoked"] is not None:
            return None
        return None if row["expires"] is not None and row["expires"] <= self._clock() else _record(row)

    def list(self) -> tuple[TokenRecord, ...]:
        """All tokens by name, also those that are over."""
        with self._database.transaction() as connection:
            rows = connection.execute(select(tables.tokens).order_by(_columns.name)).mappings()
            return tuple(_record(row) for row in rows)

    def revoke(self, name: str) -> TokenRecord | None:
        """Let a token open nothing any more; None where there is none of this name. May be repeated."""
        valid = (_columns.name == name) & _columns.revoked.is_(None)
        with self._database.transaction() as connection:
            connection.execute(update(tables.tokens).where(valid).values(revoked=self._clock()))
            row = connection.execute(select(tables.tokens).where(_columns.name == name)).mappings().one_or_none()
        return None if row is None else _record(row)


def _hash(text: str) -> bytes:
    return sha256(text.encode(errors="surrogatepass")).digest()


def _record(row: RowMapping) -> TokenRecord:
    values: dict[str, Any] = {name: value for name, value in row.items() if name != "sha256"}
    return TokenRecord(**values)
