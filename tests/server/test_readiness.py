import shutil
from pathlib import Path

import pytest

from server.readiness import Readiness, readiness
from server.storage import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "state")
    yield store
    store.close()


def test_all_is_well(store: Store) -> None:
    found = readiness(store, True, lambda _: 2**30)
    assert found == Readiness("ok", "ok", "ok")
    assert found.ready


def test_what_is_not_is_named(store: Store) -> None:
    found = readiness(store, False, lambda _: 2**20)
    assert not found.ready
    assert (found.database, found.broker) == ("ok", "disconnected")
    assert found.disk == "1 MB left, expected at least 256"


def test_a_database_that_is_gone_takes_no_writes(store: Store) -> None:
    store.close()
    shutil.rmtree(store.folder)
    found = readiness(store, True)
    assert found.database == "takes no writes"
    assert "cannot be looked at" in found.disk
