from hashlib import sha256

import pytest
from sqlalchemy import select

from server import tables
from server.database import Database
from server.errors import TokenError
from server.replies import KEPT_SECONDS, Replies, Reply
from server.tokens import TOKEN_PREFIX, Tokens
from wire_protocol.errors import InvalidValueError


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def database(database_url):
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def tokens(database, clock):
    return Tokens(database, clock)


def test_a_token_is_known_by_its_hash_only(tokens, database):
    text = tokens.create("anna", "viewer")
    assert text.startswith(TOKEN_PREFIX)
    assert len(text) == len(TOKEN_PREFIX) + 43
    with database.transaction() as connection:
        rows = connection.execute(select(tables.tokens)).all()
    assert sha256(text.encode()).digest() in rows[0]
    assert text not in str(rows)
    assert (tokens.holder(text).name, tokens.holder(text).role) == ("anna", "viewer")
    for other in ("", text[:-1], text.upper(), TOKEN_PREFIX, "\udce4"):
        assert tokens.holder(other) is None


def test_a_token_ends_when_it_expires_or_is_revoked(tokens, clock):
    text, lasting = tokens.create("short", "operator", expires=1001.0), tokens.create("long", "operator")
    assert tokens.holder(text) is not None
    clock.now = 1001.0
    assert tokens.holder(text) is None
    assert tokens.holder(lasting) is not None
    assert tokens.revoke("long").revoked == 1001.0
    clock.now = 1002.0
    assert tokens.revoke("long").revoked == 1001.0
    assert tokens.holder(lasting) is None
    assert tokens.revoke("nobody") is None
    assert [(one.name, one.expires, one.revoked) for one in tokens.list()] == [
        ("long", None, 1001.0),
        ("short", 1001.0, None),
    ]


def test_what_a_token_cannot_be(tokens):
    tokens.create("anna", "viewer")
    tokens.revoke("anna")
    with pytest.raises(TokenError, match="'anna' is taken"):
        tokens.create("anna", "viewer")
    for wrong in (
        ("an na", "viewer", None),
        ("b", "admin", None),
        ("b", "viewer", 999.0),
        ("b", "viewer", float("inf")),
    ):
        with pytest.raises(InvalidValueError):
            tokens.create(*wrong)


def test_replies_are_kept_for_a_day_by_actor_and_key(database, clock):
    replies = Replies(database, clock)
    first = Reply(b"1" * 32, 201, {"location": "/x"}, b"{}")
    replies.keep("anna", "key", first)
    assert replies.find("anna", "key") == first
    assert replies.find("berta", "key") is None
    assert replies.find("anna", "other") is None
    clock.now += KEPT_SECONDS
    assert replies.find("anna", "key") is None
    second = Reply(b"2" * 32, 200, {}, b"")
    replies.keep("anna", "key", second)
    assert replies.find("anna", "key") == second
