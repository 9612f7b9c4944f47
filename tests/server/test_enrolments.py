"""Enrolment tokens that many show at once, on each database."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import sha256

import pytest
from sqlalchemy import URL

from server.database import Database
from server.enrolments import Enrolments, Offer
from server.errors import EnrolmentError

AT_ONCE = 6


@pytest.fixture
def enrolments(database_url: URL) -> Iterator[Enrolments]:
    database = Database(database_url)
    yield Enrolments(database, lambda: 0.0)
    database.close()


def taken_in(enrolments: Enrolments, secret: str, names: Sequence[str]) -> list[str]:
    def show(name: str) -> bool:
        try:
            with enrolments.using(secret, name, sha256(name.encode()).digest()):
                return True
        except EnrolmentError:
            return False

    with ThreadPoolExecutor(len(names)) as threads:
        return [name for name, taken in zip(names, threads.map(show, names), strict=True) if taken]


def test_as_many_as_the_token_is_for_are_taken_in_however_often_they_ask(enrolments: Enrolments) -> None:
    _, secret = enrolments.create(Offer(devices=3), "anna")
    first = taken_in(enrolments, secret, [f"device-{number}" for number in range(AT_ONCE)])
    assert len(first) == 3
    assert taken_in(enrolments, secret, [*first, "another"] * 2) == first * 2
    assert enrolments.list()[0].left == 0


def test_one_that_asks_many_times_at_once_takes_one_place(enrolments: Enrolments) -> None:
    _, secret = enrolments.create(Offer(devices=2), "anna")
    assert taken_in(enrolments, secret, ["kitchen"] * AT_ONCE) == ["kitchen"] * AT_ONCE
    assert enrolments.list()[0].left == 1


def test_a_try_that_failed_takes_no_place(enrolments: Enrolments) -> None:
    _, secret = enrolments.create(Offer(), "anna")
    with pytest.raises(ZeroDivisionError), enrolments.using(secret, "kitchen", bytes(32)):
        _ = 1 / 0
    assert taken_in(enrolments, secret, ["garden"]) == ["garden"]
