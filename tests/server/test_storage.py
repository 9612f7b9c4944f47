import sqlite3
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from sqlalchemy import URL, text

from server.database_url import parse_database_url
from server.errors import StorageError
from server.records import (
    Batch,
    CarriedRecord,
    ConflictRecord,
    DeviceRecord,
    FleetHealth,
    OpeningRecord,
    RoundRecord,
    RunRecord,
    Selection,
    UpdateRecord,
)
from server.storage import DATABASE_NAME, Store
from tests.throwaway_postgresql import Postgresql
from wire_protocol.messages import RoundPlan

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


@pytest.fixture
def store(tmp_path: Path, database_url: URL) -> Store:
    store = Store(tmp_path / "deep" / "state", database_url)
    store.begin_run(RUN)
    yield store
    store.close()


@pytest.fixture
def second(store: Store, tmp_path: Path, database_url: URL) -> Store:
    second = Store(tmp_path / "deep" / "state", database_url)
    yield second
    second.close()


def test_commits_are_durable(store: Store, database_url: URL) -> None:
    with store._database.transaction() as connection:
        if database_url.get_backend_name() == "postgresql":
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar_one() == "on"
        else:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2


@pytest.fixture
def opening(make_plan: Callable[..., RoundPlan]) -> Callable[[int], OpeningRecord]:
    def make(number: int) -> OpeningRecord:
        plan = make_plan(round=number, resync_round=1, model_version=number - 1)
        return OpeningRecord(plan, frozenset({"a", "b"}), 7.5)

    return make


def test_a_closed_round_is_seen_by_a_second_store(store: Store, second: Store, opening: Callable) -> None:
    assert (second.opening("run"), second.last_plan("run")) == (None, None)
    store.open_round(opening(1))
    assert second.rounds("run") == ()
    assert second.opening("run") == opening(1)
    store.close_round("run", ROUND)
    assert second.opening("run") is None
    assert second.last_plan("run") == opening(1).plan
    assert second.rounds("run") == (ROUND,)
    assert second.run("run") == replace(RUN, rounds_closed=1)


def test_opening_and_closing_may_be_repeated(store: Store, opening: Callable) -> None:
    for _ in range(2):
        store.open_round(opening(1))
    for _ in range(2):
        store.close_round("run", ROUND)
    assert store.rounds("run") == (ROUND,)


def test_a_prolonged_plan_is_kept(store: Store, opening: Callable) -> None:
    store.open_round(opening(1))
    later = msgspec.structs.replace(opening(1).plan, deadline=2e9)
    store.extend_round(later)
    assert store.opening("run") == replace(opening(1), plan=later)
    store.close_round("run", ROUND)
    store.extend_round(opening(1).plan)
    assert store.last_plan("run") == later


def test_a_round_given_up_keeps_its_number(store: Store, opening: Callable) -> None:
    store.open_round(opening(1))
    store.close_round("run", ROUND)
    store.open_round(opening(2))
    store.abandon_round("run", 2)
    store.abandon_round("run", 1)
    assert store.opening("run") is None
    assert store.rounds("run") == (ROUND,)
    assert store.last_plan("run").round == 2


def test_rounds_opened_are_counted_whatever_their_numbers(store: Store, opening: Callable) -> None:
    for number in (1, 4, 9):
        store.open_round(opening(number))
    store.abandon_round("run", 9)
    assert [store.opened_since("run", number) for number in (1, 2, 4, 10)] == [3, 2, 2, 0]
    assert store.opened_since("other", 1) == 0


def test_a_round_without_test_data_has_no_accuracy(store: Store, opening: Callable) -> None:
    untested = replace(ROUND, accuracy=None, loss=None)
    store.open_round(opening(1))
    store.close_round("run", untested)
    assert store.rounds("run") == (untested,)


def test_sums_too_large_for_the_database_are_cut(store: Store, opening: Callable) -> None:
    store.open_round(opening(1))
    store.close_round("run", replace(ROUND, full_macs=10**30))
    assert store.rounds("run")[0].full_macs == 2**63 - 1


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
    other = replace(DEVICE, id="b", examples=3)
    store.save_devices([DEVICE, other])
    store.updates.commit(
        Batch(
            (UpdateRecord("run", 1, "a", bytes(32), 0, 1, 1),),
            (Selection("a", 1, 1, {"hidden": b"\xc0"}, {"hidden": 2}),),
            (),
            6.0,
        )
    )
    assert store.devices() == (replace(DEVICE, kept={"hidden": 2}, last_seen=6.0), other)
    store.save_devices([replace(DEVICE, online=False, last_seen=7.0)])
    assert store.devices() == (replace(DEVICE, online=False, kept={"hidden": 2}, last_seen=7.0), other)


def test_what_a_device_said_stands_when_it_goes_and_the_fleets_health_is_of_those_that_are_there(store: Store) -> None:
    warm = replace(DEVICE, temperature=60.5, throttled=True, paused="it is too hot", budget_left=0.25, free_mb=9)
    cool = replace(DEVICE, id="b", temperature=40.0, release="2026.11")
    store.save_devices([warm, cool])
    assert store.fleet_health() == FleetHealth(paused=1, throttled=1, hottest=60.5, least_budget=0.25)
    store.save_devices([DeviceRecord("a", False, 0, "", "", 9.0)])
    assert store.devices() == (replace(warm, online=False, last_seen=9.0), cool)
    assert store.fleet_health() == FleetHealth(hottest=40.0)


def test_conflicts_are_shown_with_the_device(store: Store) -> None:
    store.save_devices([DEVICE])
    store.updates.flag([ConflictRecord("run", number, "a", bytes(32), times=2) for number in (1, 2)])
    assert store.devices() == (replace(DEVICE, conflicts=4),)


def test_presence_can_be_forgotten(store: Store) -> None:
    store.save_devices([DEVICE])
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


def test_a_locked_database_is_a_storage_error(tmp_path: Path) -> None:
    store = Store(tmp_path)
    with store._database._engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout=0")
    other = sqlite3.connect(tmp_path / DATABASE_NAME, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    try:
        with pytest.raises(StorageError, match="locked"):
            store.save_devices([DEVICE])
    finally:
        other.execute("ROLLBACK")
        other.close()
        store.close()


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    url = parse_database_url("postgresql://user:secret@127.0.0.1:1/nowhere")
    with pytest.raises(
        StorageError, match=r"database postgresql\+psycopg://user:\*\*\*@127.0.0.1:1/nowhere: .*refused"
    ):
        Store(tmp_path, url)


def test_a_lost_connection_is_a_storage_error_and_the_next_call_has_another(
    tmp_path: Path, postgresql: Postgresql
) -> None:
    store = Store(tmp_path, postgresql.new_database())
    store.begin_run(RUN)

    def lose() -> None:
        with store._database.transaction() as connection:
            postgresql.stop()
            connection.execute(text("SELECT 1"))

    try:
        with pytest.raises(StorageError):
            lose()
        with pytest.raises(StorageError, match="refused"):
            store.runs()
    finally:
        postgresql.start()
    assert store.runs() == (RUN,)
    store.close()


def test_a_device_may_put_nul_into_its_words(store: Store) -> None:
    store.save_devices([replace(DEVICE, client="a\0b")])
    assert store.devices()[0].client in ("a\0b", "a\N{REPLACEMENT CHARACTER}b")
    assert store.run("a\0b") is None


def test_recent_plans_go_back_to_a_model_version(store: Store, make_plan: Callable[..., RoundPlan]) -> None:
    plans = [make_plan(round=number, model_version=version) for number, version in ((1, 0), (2, 1), (3, 1), (4, 2))]
    for plan in plans:
        store.open_round(OpeningRecord(plan, frozenset(), 0.0))
    assert store.recent_plans("run", 1) == tuple(reversed(plans[1:]))
    assert store.recent_plans("run", -3) == tuple(reversed(plans))
    assert store.recent_plans("run", 3) == store.recent_plans("other", 0) == ()


def test_the_ranking_is_that_of_the_last_closed_resync_round(store: Store, make_plan: Callable[..., RoundPlan]) -> None:
    assert store.ranking("run") == {}
    for number, resync_round, ranking in ((1, 1, {"fc": b"1"}), (2, 1, {"fc": b"2"}), (3, 3, {"fc": b"3"})):
        store.open_round(OpeningRecord(make_plan(round=number, resync_round=resync_round), frozenset(), 0.0))
        if number < 3:
            store.close_round(
                "run", replace(ROUND, round=number, resync=number == resync_round), CarriedRecord(ranking)
            )
    assert store.ranking("run") == {"fc": b"1"}


def test_the_clip_norm_is_that_of_the_last_closed_round(store: Store, make_plan: Callable[..., RoundPlan]) -> None:
    assert store.clip_norm("run") is None
    for number, norm in ((1, 2.5), (2, 1.25), (3, None)):
        store.open_round(OpeningRecord(make_plan(round=number, resync_round=1), frozenset(), 0.0))
        if number < 3:
            store.close_round("run", replace(ROUND, round=number), CarriedRecord(clip_norm=norm))
            assert store.clip_norm("run") == norm
    store.abandon_round("run", 3)
    assert store.clip_norm("run") == 1.25
