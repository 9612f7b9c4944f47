import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from sqlalchemy import URL

from server.database import Database
from server.event_log import MOST_TEXT, EventFilter, EventLog
from tests.patience import PATIENCE
from wire_protocol.errors import InvalidValueError


@pytest.fixture
def database(database_url: URL) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def log(database: Database) -> Iterator[EventLog]:
    moments = iter(range(10**6))
    log = EventLog(database, lambda: float(next(moments)), most=50)
    yield log
    log.close()


def _texts(records: object) -> list[str]:
    return [record.text for record in records]


def test_what_is_said_is_read_in_order_by_another_log_too(log: EventLog, database: Database) -> None:
    log.add("round-opened", "open for 3 devices", run="run", round=4)
    log.presence({"b", "a"}, {"c"})
    log.add("audit", "paused", actor="kim")
    log.close()
    other = EventLog(database, lambda: 0.0)
    first, *rest = other.list()
    assert (first.at, first.kind, first.run, first.round, first.device) == (0.0, "round-opened", "run", 4, None)
    assert [(record.kind, record.device) for record in rest[:3]] == [
        ("device-online", "a"),
        ("device-online", "b"),
        ("device-offline", "c"),
    ]
    assert rest[3].actor == "kim"
    assert [record.id for record in other.newest()] == [5, 4, 3, 2, 1]
    assert other.last_id() == 5
    other.close()


def test_pages_meet_and_filters_choose(log: EventLog) -> None:
    for number in range(10):
        log.add("round-closed" if number % 2 else "round-opened", str(number), run=f"run{number % 3}", device=None)
    log.flush()
    assert _texts(log.list(after=3, limit=4)) == ["3", "4", "5", "6"]
    assert _texts(log.newest(before=8, limit=3)) == ["6", "5", "4"]
    assert _texts(log.list(wanted=EventFilter(("round-closed",), run="run0"))) == ["3", "9"]
    assert _texts(log.list(wanted=EventFilter(("round-closed", "round-opened")))) == list("0123456789")
    assert log.list(wanted=EventFilter(device="nobody")) == ()


def test_the_oldest_go_but_audits_stay(log: EventLog) -> None:
    log.add("audit", "first")
    for number in range(120):
        log.add("device-online", str(number))
    log.flush()
    records = log.list(limit=1000)
    assert _texts(records) == ["first", *map(str, range(70, 120))]


def test_texts_are_cut_and_limits_named(log: EventLog) -> None:
    log.add("alert", "x" * 2 * MOST_TEXT)
    log.flush()
    assert len(log.list()[0].text) == MOST_TEXT
    with pytest.raises(InvalidValueError, match="limit must be 1 to 1001, got 0"):
        log.list(limit=0)
    with pytest.raises(InvalidValueError, match="kind must be one of round-opened"):
        EventFilter(("nonsense",))


def test_what_cannot_be_written_is_said_in_the_log(log: EventLog, caplog: pytest.LogCaptureFixture) -> None:
    log.add("alert", "fine")
    log.flush()
    log.note(replace(log.list()[0], id=1))
    log.flush()
    assert "1 events could not be written down, the first 'fine'" in caplog.text
    log.add("alert", "again")
    log.flush()
    assert _texts(log.list()) == ["fine", "again"]


async def test_a_follower_gets_what_was_and_what_comes_and_an_end(log: EventLog) -> None:
    log.add("alert", "before")
    log.add("audit", "not wanted")
    log.flush()
    seen: asyncio.Queue[str] = asyncio.Queue()

    async def follow() -> None:
        async for record in log.follow(0, EventFilter(("alert",))):
            seen.put_nowait(record.text)

    following = asyncio.create_task(follow())
    async with asyncio.timeout(PATIENCE):
        assert await seen.get() == "before"
        for number in range(20):
            log.add("alert", str(number))
            assert await seen.get() == str(number)
        log.end_following()
        await following
    assert seen.empty()


async def test_a_slow_follower_misses_nothing(log: EventLog) -> None:
    seen: list[str] = []
    log.add("alert", "0")
    async with asyncio.timeout(PATIENCE):
        async for record in log.follow(0):
            seen.append(record.text)
            if len(seen) == 1:
                for number in range(1, 40):
                    log.add("alert", str(number))
                await asyncio.to_thread(log.flush)
            if len(seen) == 40:
                break
    assert seen == [str(number) for number in range(40)]
