"""Tokens with which devices enrol themselves, each for so many devices and so long; known here by their hash only.

A token is used up in the transaction in which a device is taken in, so one that failed costs nothing, and of many at
once no more than the token is for are taken in. A device whose answer was lost on the way asks again with the same
keys, and uses up nothing more. What is wrong with a token nobody learns: unknown, used up, expired, withdrawn and for
another device are one answer.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, or_, select, update

from server import tables
from server.database import Database
from server.errors import EnrolmentError
from wire_protocol.enrolment import PREFIX
from wire_protocol.errors import require
from wire_protocol.topics import require_identifier

MOST_DEVICES = 10_000
MOST_HOURS = 24.0 * 366
_SECRET_BYTES = 32
_columns = tables.enrolments.c


@dataclass(frozen=True)
class Offer:
    """What a new token is for: `devices` devices within `hours`, the one of this name if any, and the broker's URL that
    they are told, None for the server's own.
    """

    devices: int = 1
    hours: float = 24.0
    device: str | None = None
    broker: str | None = None

    def __post_init__(self) -> None:
        most = MOST_DEVICES if self.device is None else 1
        require(1 <= self.devices <= most, "devices", self.devices, f"1 to {most}")
        require(0 < self.hours <= MOST_HOURS, "hours", self.hours, f"above 0, at most {MOST_HOURS:g}")
        if self.device is not None:
            require_identifier("device", self.device)


@dataclass(frozen=True)
class EnrolmentRecord:
    """A token as it is known here; `left` is how many devices it still takes in, `actor` who made it.

    Times are in seconds since the Unix epoch.
    """

    id: int
    devices: int
    left: int
    device: str | None
    broker: str | None
    created: float
    expires: float
    actor: str


class Enrolments:
    """The tokens in `database`; `clock` gives seconds since the Unix epoch. Any thread may use it."""

    def __init__(self, database: Database, clock: Callable[[], float]) -> None:
        self._database = database
        self._clock = clock

    def create(self, offer: Offer, actor: str) -> tuple[EnrolmentRecord, str]:
        """Make a token; what is known of it, and its secret, which nothing can show again."""
        now, secret = self._clock(), PREFIX + secrets.token_urlsafe(_SECRET_BYTES)
        row: dict[str, Any] = {
            "devices": offer.devices,
            "left": offer.devices,
            "device": offer.device,
            "broker": offer.broker,
            "created": now,
            "expires": now + offer.hours * 3600,
            "actor": actor,
        }
        with self._database.transaction() as connection:
            done = connection.execute(tables.enrolments.insert().values(**row, sha256=_hash(secret)))
            (number,) = done.inserted_primary_key or (0,)
        return EnrolmentRecord(id=number, **row), secret

    @contextmanager
    def using(self, secret: str, device: str, applicant: bytes) -> Iterator[EnrolmentRecord]:
        """Use a token up for this device once the body has come to its end; raises `EnrolmentError`.

        `applicant` is the SHA-256 of the device and its keys: whom the token has taken in, it takes in again until it
        expires, in nobody else's place.
        """
        opens = (_columns.sha256 == _hash(secret)) & (_columns.expires > self._clock())
        opens &= or_(_columns.device.is_(None), _columns.device == device)
        with self._database.transaction() as connection:
            record = _held(connection, opens)
            if record is None or not _takes_in(connection, record, applicant):
                raise EnrolmentError("the enrolment token is unknown, used up, expired, or for another device")
            yield record

    def list(self) -> tuple[EnrolmentRecord, ...]:
        """All tokens, the newest first."""
        query = select(*_SHOWN).order_by(_columns.id.desc())
        with self._database.transaction() as connection:
            return tuple(EnrolmentRecord(**row) for row in connection.execute(query).mappings())

    def withdraw(self, number: int) -> bool:
        """Let a token take nobody in any more; False where there is none of this id."""
        with self._database.transaction() as connection:
            connection.execute(delete(tables.enrolled).where(tables.enrolled.c.enrolment == number))
            query = update(tables.enrolments).where(_columns.id == number).values(left=0)
            return connection.execute(query).rowcount > 0


_SHOWN = tuple(column for column in _columns if column.name != "sha256")


def _held(connection: Connection, opens: ColumnElement[bool]) -> EnrolmentRecord | None:
    """The token that is so; whoever else shows it waits until this transaction is over."""
    nothing = update(tables.enrolments).where(opens).values(left=_columns.left)
    row = connection.execute(nothing.returning(*_SHOWN)).mappings().one_or_none()
    return None if row is None else EnrolmentRecord(**row)


def _takes_in(connection: Connection, record: EnrolmentRecord, applicant: bytes) -> bool:
    enrolled = tables.enrolled.c
    known = select(enrolled.enrolment).where(enrolled.enrolment == record.id, enrolled.applicant == applicant)
    if connection.execute(known).first() is not None:
        return True
    if record.left:
        connection.execute(update(tables.enrolments).where(_columns.id == record.id).values(left=record.left - 1))
        connection.execute(tables.enrolled.insert().values(enrolment=record.id, applicant=applicant))
    return record.left > 0


def _hash(secret: str) -> bytes:
    return sha256(secret.encode(errors="surrogatepass")).digest()
