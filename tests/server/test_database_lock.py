"""Two processes' servers are two engines here: an advisory lock belongs to a session."""

import threading

import pytest
from sqlalchemy import Engine, text

from server.database_engine import open_engine
from server.database_lock import claim, let_go
from server.errors import StorageError
from tests.throwaway_postgresql import Postgresql

SOON = 0.05


@pytest.fixture
def pair(postgresql: Postgresql) -> tuple[Engine, Engine]:
    url = postgresql.new_database()
    engines = open_engine(url), open_engine(url)
    yield engines
    for engine in engines:
        let_go(engine)


def test_a_database_has_one_server_at_a_time(pair: tuple[Engine, Engine]) -> None:
    first, second = pair
    claim(first, SOON)
    with pytest.raises(StorageError, match=r"/postgres.* is in use by another server: stop it or choose another"):
        claim(second, SOON)
    let_go(second)
    let_go(first)
    claim(second, SOON)


def test_who_only_reads_is_in_nobodys_way(pair: tuple[Engine, Engine]) -> None:
    server, reader = pair
    with reader.begin() as connection:
        connection.execute(text("SELECT 1"))
        claim(server, SOON)
    claim(server, SOON)


def test_a_killed_servers_last_transaction_is_waited_for(pair: tuple[Engine, Engine]) -> None:
    killed, next_one = pair
    claim(killed, SOON)
    claimed = threading.Event()

    def begin() -> None:
        claim(next_one)
        claimed.set()

    connection = killed.connect()
    connection.detach()
    thread = threading.Thread(target=begin)
    thread.start()
    assert not claimed.wait(SOON)
    connection.close()
    thread.join()
    assert claimed.is_set()
