import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from server.errors import StorageError
from server.records import DeviceRecord, RoundRecord, RunRecord, UpdateRecord
from server.storage import DATABASE_NAME, Store

RUN = RunRecord("run", "b" * 64, 100.0, {"rounds": 3})
ROUND = RoundRecord(
    round=1,
    resync=True,
    accuracy=0.5,
    loss=1.25,
    updates_accepted=2,
    updates_rejected=1,
    bytes_up=10,
    bytes_down=20,
    bytes_up_dense=100,
    bytes_down_dense=100,
    trained_macs=7,
    scored_macs=8,
    full_macs=9,
    seconds=1.5,
    model_version=1,
)
DEVICE = DeviceRecord("a", True, 12, "portable", "0.1.0", 5.0)
UPDATE = UpdateRecord("run", 1, "a", b"1" * 32)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    store = Store(tmp_path / "deep" / "state")
    store.begin_run(RUN)
    yield store
    store.close()


@pytest.fixture
def second(store: Store, tmp_path: Path) -> Store:
    second = Store(tmp_path / "deep" / "state")
    yield second
    second.close()


def test_commits_are_durable(store: Store, tmp_path: Path) -> None:
    with store._engine.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
        assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


def test_a_closed_round_is_seen_by_a_second_store(store: Store, second: Store) -> None:
    store.open_round("run", 1, resync=True)
    assert second.rounds("run") == ()
    assert second.last_round("run") == 1
    store.close_round("run", ROUND)
    assert second.rounds("run") == (ROUND,)
    assert second.run("run") == replace(RUN, rounds_closed=1)


def test_a_round_without_test_data_has_no_accuracy(store: Store) -> None:
    untested = replace(ROUND, accuracy=None, loss=None)
    store.open_round("run", 1, resync=True)
    store.close_round("run", untested)
    assert store.rounds("run") == (untested,)


def test_sums_too_large_for_the_database_are_cut(store: Store) -> None:
    store.open_round("run", 1, resync=True)
    store.close_round("run", replace(ROUND, full_macs=10**30))
    assert store.rounds("run")[0].full_macs == 2**63 - 1


def test_an_update_is_counted_once(store: Store, second: Store) -> None:
    assert store.counted_hash("run", 1, "a") is None
    assert store.count_update(UPDATE) == UPDATE.sha256
    assert second.count_update(UPDATE) == UPDATE.sha256
    assert second.count_update(replace(UPDATE, sha256=b"2" * 32)) == UPDATE.sha256
    assert store.count_update(replace(UPDATE, device="b", sha256=b"2" * 32)) == b"2" * 32
    assert store.count_update(replace(UPDATE, round=2, sha256=b"3" * 32)) == b"3" * 32
    assert [update.sha256[:1] for update in store.updates("run")] == [b"1", b"2", b"3"]
    assert store.counted_hash("run", 1, "a") == UPDATE.sha256


def test_the_round_left_open_is_abandoned_with_its_updates(store: Store) -> None:
    store.open_round("run", 1, resync=True)
    store.count_update(UPDATE)
    store.close_round("run", ROUND)
    store.open_round("run", 2, resync=False)
    store.count_update(replace(UPDATE, round=2))
    assert store.abandon_open_rounds("run") == (2,)
    assert store.abandon_open_rounds("run") == ()
    assert store.updates("run") == (UPDATE,)
    assert store.rounds("run") == (ROUND,)
    assert store.last_round("run") == 2


def test_a_run_belongs_to_one_bundle(store: Store) -> None:
    store.begin_run(replace(RUN, started=200.0, config={"rounds": 9}))
    assert store.run("run") == replace(RUN, config={"rounds": 9})
    with pytest.raises(StorageError, match=r"run run .* was started with bundle b+, got c+"):
        store.begin_run(replace(RUN, bundle="c" * 64, config={}))
    assert store.run("run") == replace(RUN, config={"rounds": 9})
    assert store.run("other") is None


def test_runs_are_listed_newest_first(store: Store) -> None:
    newer = replace(RUN, run="newer", started=200.0)
    store.begin_run(newer)
    assert store.runs() == (newer, RUN)


def test_what_a_device_says_and_what_it_kept_are_held_apart(store: Store) -> None:
    store.save_device(DEVICE)
    store.save_kept("a", {"hidden": 2}, 6.0)
    assert store.devices() == (replace(DEVICE, kept={"hidden": 2}, last_seen=6.0),)
    store.save_device(replace(DEVICE, online=False, last_seen=7.0))
    assert store.devices() == (replace(DEVICE, online=False, kept={"hidden": 2}, last_seen=7.0),)


def test_nobody_is_online_after_a_restart(store: Store) -> None:
    store.save_device(DEVICE)
    store.forget_presence()
    assert [device.online for device in store.devices()] == [False]


def test_a_closed_store_opens_again(store: Store) -> None:
    store.close()
    assert store.run("run") == RUN


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / DATABASE_NAME).write_text("no database at all, but long enough to be read as a page header" * 20)
    with pytest.raises(StorageError, match=f"{DATABASE_NAME}: file is not a database"):
        Store(tmp_path)


def test_a_state_path_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("")
    with pytest.raises(StorageError, match="cannot be made"):
        Store(tmp_path / "state")


def test_a_locked_database_is_a_storage_error(store: Store, tmp_path: Path) -> None:
    with store._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
    other = sqlite3.connect(tmp_path / "deep" / "state" / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StorageError, match="locked"):
            store.count_update(UPDATE)
    finally:
        other.execute("ROLLBACK")
        other.close()
