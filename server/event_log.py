"""What happened in the fleet, as durable rows that people read and follow live.

`add` never waits and never fails: one thread writes what waits, all of it in one transaction, in the order it was said.
So ids rise in the order in which rows can be seen, and whoever read up to an id misses nothing by asking for those
after it. That is how readers follow: they are woken and read on from their own last id, so a slow one holds nothing up
and takes no memory. The oldest rows go once there are more than `most`; those of kind `audit` stay.

What `write` notes is durable when it returns: who asks for something, before it is done. Its text may be completed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from typing import Literal, get_args

from sqlalchemy import ColumnElement, Select, and_, delete, func, select, true, update

from server import tables
from server.database import Database
from server.errors import StorageError
from server.records import RoundRecord
from wire_protocol.errors import require

logger = logging.getLogger(__name__)

EventKind = Literal[
    "round-opened",
    "round-closed",
    "round-abandoned",
    "run-created",
    "run-status",
    "device-online",
    "device-offline",
    "device-enrolled",
    "device-revoked",
    "device-quarantined",
    "release-halted",
    "update-refused",
    "alert",
    "audit",
]
MOST_TEXT = 500
"""Characters of an event's text; longer ones are cut."""
MOST_LISTED = 1001
"""One more than a page shows, to tell whether another one follows."""
_MOST_KEPT = 200_000
_MOST_WAITING = 50_000
_LOOK_AGAIN_SECONDS = 10.0
"""Rows of another process, a command on this machine, wake nobody: followers look for themselves as often."""


@dataclass(frozen=True)
class Happening:
    """What is said of an event; `at` is in seconds since the Unix epoch, `actor` who asked for it."""

    at: float
    kind: EventKind
    text: str
    run: str | None = None
    round: int | None = None
    device: str | None = None
    actor: str | None = None


@dataclass(frozen=True)
class EventRecord(Happening):
    """An event as it stands in the database; ids rise in the order in which rows can be seen."""

    id: int = 0


@dataclass(frozen=True)
class EventFilter:
    """Which events are asked for: of these kinds, none for all, and of one run or device, None for any."""

    kinds: tuple[EventKind, ...] = ()
    run: str | None = None
    device: str | None = None

    def __post_init__(self) -> None:
        legal = get_args(EventKind)
        for kind in self.kinds:
            require(kind in legal, "kind", kind, f"one of {', '.join(legal)}")

    def clause(self) -> ColumnElement[bool]:
        """The filter in SQL."""
        columns = tables.events.c
        wanted = [columns.kind.in_(self.kinds)] if self.kinds else []
        wanted += [columns[name] == value for name in ("run", "device") if (value := getattr(self, name)) is not None]
        return and_(true(), *wanted)


EVERYTHING = EventFilter()


class EventLog:
    """The events in `database`; `clock` gives seconds since the Unix epoch. Any thread may use it."""

    def __init__(self, database: Database, clock: Callable[[], float], most: int = _MOST_KEPT) -> None:
        self._database = database
        self._clock = clock
        self._most = most
        self._waiting: deque[Happening] = deque(maxlen=_MOST_WAITING)
        self._writer = ThreadPoolExecutor(1, "event log")
        self._followers: set[_Follower] = set()
        self._ended = False

    def add(
        self,
        kind: EventKind,
        text: str,
        *,
        run: str | None = None,
        round: int | None = None,  # noqa: A002 - its name everywhere
        device: str | None = None,
        actor: str | None = None,
    ) -> None:
        """Note what happened just now; it is durable a moment later. What cannot be written is in the log only."""
        self.note(Happening(self._clock(), kind, text[:MOST_TEXT], run, round, device, actor))

    def write(
        self, kind: EventKind, text: str, *, run: str | None = None, device: str | None = None, actor: str | None = None
    ) -> int:
        """Note what happens now, durable when this returns the event's id; raises `StorageError`. Blocks."""
        happening = Happening(self._clock(), kind, text[:MOST_TEXT], run, device=device, actor=actor)
        try:
            written = self._writer.submit(self._write_one, happening)
        except RuntimeError as error:
            raise StorageError("the event log is closed") from error
        return written.result()

    def reword(self, event: int, text: str) -> None:
        """Give an event that was written another text, durable when this returns; raises `StorageError`. Blocks."""
        with self._database.transaction() as connection:
            statement = update(tables.events).where(tables.events.c.id == event)
            connection.execute(statement.values(text=text[:MOST_TEXT]))
        self._wake()

    def presence(self, arrived: Iterable[str], departed: Iterable[str]) -> None:
        """Devices came online, and others went."""
        for device in sorted(arrived):
            self.add("device-online", "came online", device=device)
        for device in sorted(departed):
            self.add("device-offline", "went offline", device=device)

    def note(self, happening: Happening) -> None:
        """As `add`, for what happened at another time."""
        self._waiting.append(happening)
        with suppress(RuntimeError):  # the log is closed: written by the next one that opens it, if it goes on
            self._writer.submit(self._write)

    def list(self, after: int = 0, limit: int = 100, wanted: EventFilter = EVERYTHING) -> tuple[EventRecord, ...]:
        """Up to `limit` events (1 to 1001) with ids above `after`, the oldest first."""
        query = select(tables.events).where(tables.events.c.id > after, wanted.clause())
        return self._records(query.order_by(tables.events.c.id), limit)

    def newest(
        self, before: int | None = None, limit: int = 100, wanted: EventFilter = EVERYTHING
    ) -> tuple[EventRecord, ...]:
        """Up to `limit` events (1 to 1001) with ids below `before`, the newest first."""
        query = select(tables.events).where(wanted.clause())
        if before is not None:
            query = query.where(tables.events.c.id < before)
        return self._records(query.order_by(tables.events.c.id.desc()), limit)

    def last_id(self) -> int:
        """The newest event's id, 0 without any."""
        with self._database.transaction() as connection:
            return connection.execute(select(func.max(tables.events.c.id))).scalar_one() or 0

    async def follow(
        self, after: int, wanted: EventFilter = EVERYTHING, seconds: float = float("inf")
    ) -> AsyncIterator[EventRecord]:
        """Events with ids above `after`, and then each new one; ends with `end_following`, or after some `seconds`."""
        with self._following() as follower:
            end = follower.loop.time() + seconds
            while not self._ended and follower.loop.time() < end:
                follower.news.clear()
                records = await asyncio.to_thread(self.list, after, MOST_LISTED, wanted)
                for record in records:
                    yield record
                    after = record.id
                if len(records) < MOST_LISTED:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LOOK_AGAIN_SECONDS):
                            await follower.news.wait()

    def end_following(self) -> None:
        """Let everyone who follows come to an end: the service stops."""
        self._ended = True
        self._wake()

    def flush(self) -> None:
        """Return when all that was said so far is written."""
        self._writer.submit(self._write).result()

    def close(self) -> None:
        """Write what waits."""
        self._writer.shutdown()

    @contextmanager
    def _following(self) -> Iterator[_Follower]:
        follower = _Follower(asyncio.get_running_loop(), asyncio.Event())
        self._followers.add(follower)
        try:
            yield follower
        finally:
            self._followers.discard(follower)

    def _wake(self) -> None:
        for follower in tuple(self._followers):
            with suppress(RuntimeError):  # its loop is closed
                follower.loop.call_soon_threadsafe(follower.news.set)

    def _write_one(self, happening: Happening) -> int:
        self._write()
        with self._database.transaction() as connection:
            statement = tables.events.insert().values(asdict(happening)).returning(tables.events.c.id)
            return int(connection.execute(statement).scalar_one())

    def _write(self) -> None:
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not batch:
            return
        try:
            with self._database.transaction() as connection:
                connection.execute(tables.events.insert(), [asdict(one) for one in batch])
                newest = connection.execute(select(func.max(tables.events.c.id))).scalar_one()
                old = (tables.events.c.id <= newest - self._most) & (tables.events.c.kind != "audit")
                connection.execute(delete(tables.events).where(old))
        except StorageError as error:
            logger.error("%d events could not be written down, the first %.100r: %s", len(batch), batch[0].text, error)
        self._wake()

    def _records(self, query: Select[tuple[object, ...]], limit: int) -> tuple[EventRecord, ...]:
        require(1 <= limit <= MOST_LISTED, "limit", limit, f"1 to {MOST_LISTED}")
        with self._database.transaction() as connection:
            return tuple(EventRecord(**row) for row in connection.execute(query.limit(limit)).mappings())


def closed_words(record: RoundRecord) -> str:
    """What a closed round came to, in a few words."""
    tested = [] if record.accuracy is None else [f"accuracy {100 * record.accuracy:.1f} %"]
    tested += [] if record.loss is None else [f"loss {record.loss:.4g}"]
    refused = [f"{record.updates_rejected} refused"] if record.updates_rejected else []
    return ", ".join([f"{record.updates_accepted} updates counted", *refused, *tested])


@dataclass(frozen=True, eq=False)
class _Follower:
    """Where to wake who, in which event loop."""

    loop: asyncio.AbstractEventLoop
    news: asyncio.Event
