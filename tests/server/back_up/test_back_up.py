import io
import stat
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from sqlalchemy import URL, text

from server.back_up.back_up import Subject, back_up
from server.back_up.restore import Place, restore
from server.database_engine import open_engine
from server.database_url import sqlite_url
from server.errors import DamagedError, StorageError
from server.records import (
    Batch,
    CarriedRecord,
    ConflictRecord,
    DeviceRecord,
    LedgerRecord,
    OpeningRecord,
    RefusalRecord,
    RoundRecord,
    RunRecord,
    Selection,
    UpdateRecord,
)
from server.storage import Store

ROUND = RoundRecord(*(1, True, 0.5, None, 2, 1, 10, 20, 100, 100, 7, 8, 2**62, 1.5, 1))
LEFT_OUT = ("lock", "partial/a", "courier/b", "spool/.c.partial")
KEPT = ("spool/run/2.segment", "models/run/1.safetensors", "bundles/x/manifest.json")


@pytest.fixture(params=["sqlite", "postgresql"])
def other_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """Where to restore: each kind of database for each."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "other.sqlite")
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def filled(tmp_path: Path, database_url: URL, make_plan: Callable) -> Subject:
    """A state folder with a row of each kind and some files."""
    state = tmp_path / "state"
    store = Store(state, database_url)
    store.begin_run(RunRecord("run", "b" * 64, 1e9, {"rounds": 3, "privacy": None, "keep": [0.5]}))
    store.open_round(OpeningRecord(make_plan(round=1, resync_round=1), frozenset("ab"), 7.5))
    store.close_round("run", ROUND, CarriedRecord({"fc": b"\xff\x00"}, 0.25))
    store.save_devices([DeviceRecord("a", True, 12, "portable", "0.1.0 é\0", 5.0)])
    update = UpdateRecord("run", 1, "a", b"1" * 32, 0, 10, 1)
    kept = Selection("a", 1, 1, {"hidden": b"\xa0"}, {"hidden": 2})
    told = LedgerRecord("a", 2**50, b"h" * 32, b"1" * 32)
    refused = RefusalRecord("run", 1, "c", b"3" * 32, "no", "malformed")
    store.updates.commit(Batch((update,), (kept,), (refused,), 6.0, (told,)))
    store.updates.flag([ConflictRecord("run", 1, "a", b"5" * 32, 3)])
    store.events.add("audit", "paused", run="run", actor="kim")
    (tmp_path / "model").write_bytes(b"weights")
    store.archive.add("run", ROUND, tmp_path / "model")
    store.close()
    for name in (*LEFT_OUT, *KEPT):
        path = state / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)
    return Subject(state, database_url)


def what_is_known(store: Store) -> tuple:
    return (
        store.runs(),
        store.rounds("run"),
        store.last_plan("run"),
        store.ranking("run"),
        store.clip_norm("run"),
        store.updates.of_run("run"),
        store.updates.refusals("run", 1),
        store.updates.selections("run", 0),
        store.ledgers.seen("a", b""),
        store.events.list(),
        store.archive.versions("run"),
        store.archive.open("run", 1),
        [replace(device, client="") for device in store.devices()],
    )


def known_at(state: Path, url: URL | None) -> tuple:
    store = Store(state, url)
    try:
        return what_is_known(store)
    finally:
        store.close()


def test_all_is_restored_from_either_database_into_either(filled: Subject, other_url: URL, tmp_path: Path) -> None:
    back_up(filled, tmp_path / "b.tar.zst", 5.0)
    place = Place(tmp_path / "deep" / "new", other_url)
    restore(tmp_path / "b.tar.zst", place)
    assert known_at(place.state, other_url) == known_at(filled.state, filled.database)
    assert all((place.state / name).read_text() == name for name in KEPT)
    assert not any((place.state / name).exists() for name in LEFT_OUT)
    assert not list(place.state.glob(".*"))
    store = Store(place.state, other_url)
    store.events.add("alert", "numbers go on")
    store.events.flush()
    assert [event.text for event in store.events.list()] == ["paused", "numbers go on"]
    store.close()


def test_without_a_database_named_it_is_the_file_in_the_state_folder(filled: Subject, tmp_path: Path) -> None:
    back_up(filled, tmp_path / "b.tar.zst", 5.0)
    restore(tmp_path / "b.tar.zst", Place(tmp_path / "new"))
    assert known_at(tmp_path / "new", None) == known_at(filled.state, filled.database)


def test_keys_are_in_it_only_where_that_is_asked_for(filled: Subject, tmp_path: Path) -> None:
    fleet = tmp_path / "fleet"
    fleet.mkdir()
    for name in ("fleet.json", "devices.json", "operator.key"):
        (fleet / name).write_text(name)
    for number, with_keys in enumerate((False, True)):
        out = tmp_path / f"{number}.tar.zst"
        back_up(replace(filled, fleet=fleet, with_keys=with_keys), out, 5.0)
        restore(out, Place(tmp_path / f"new-{number}", fleet=tmp_path / f"fleet-{number}"))
        found = {path.name for path in (tmp_path / f"fleet-{number}").iterdir()}
        assert found == {"fleet.json", "devices.json"} | ({"operator.key"} if with_keys else set())
        assert stat.S_IMODE(out.stat().st_mode) == 0o600


@pytest.fixture
def made(filled: Subject, tmp_path: Path) -> Path:
    back_up(filled, tmp_path / "made.tar.zst", 5.0)
    return tmp_path / "made.tar.zst"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_nothing_is_overwritten(made: Path, filled: Subject, tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"made.tar.zst is there already"):
        back_up(filled, made, 5.0)
    with pytest.raises(StorageError, match=r"state is not empty"):
        restore(made, Place(filled.state))
    with pytest.raises(StorageError, match=r"database .*database.sqlite is not empty"):
        restore(made, Place(tmp_path / "new", filled.database))
    assert list((tmp_path / "new").iterdir()) == []
    with pytest.raises(StorageError, match=r"holds nothing of an operator's folder"):
        restore(made, Place(tmp_path / "new", fleet=tmp_path / "fleet"))
    restore(made, Place(tmp_path / "new"))


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_what_is_not_whole_is_refused_and_leaves_nothing(made: Path, tmp_path: Path) -> None:
    content = made.read_bytes()
    place = Place(tmp_path / "new")
    broken = bytearray(content)
    broken[len(content) // 2] ^= 1
    for bad in (b"", b"no back-up", content[: len(content) // 2], content[:-30], bytes(broken)):
        made.write_bytes(bad)
        with pytest.raises((DamagedError, StorageError), match=r"made.tar.zst"):
            restore(made, place)
        assert list(place.state.glob("*")) == []


def packed(*members: tuple[str, bytes]) -> bytes:
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as archive:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return zstandard.compress(plain.getvalue())


HEAD = ("back-up.json", b'{"format":1,"schema":"0001","made":1.0}')


@pytest.mark.parametrize(
    ("members", "reason"),
    [
        ([("state/x", b"")], "it does not begin with back-up.json"),
        ([("back-up.json", b"{}")], "missing required field"),
        ([("back-up.json", HEAD[1].replace(b"1,", b"2,", 1))], "has format 2, expected 1"),
        ([("back-up.json", HEAD[1].replace(b"0001", b"9999"))], "has version 9999, of a newer server"),
        ([HEAD, ("state/x", b"")], "is cut off"),
        ([HEAD, ("state/../../x", b""), ("end", b"")], "outside the destination"),
        ([HEAD, ("tables/0", b"\x01"), ("end", b"")], "tables/0 in the back-up: Expected `object`"),
        ([HEAD, ("tables/0", b"\x83\xa5table\xa1x\xa7columns\x90\xa4rows\x90"), ("end", b"")], "a table 'x', which"),
    ],
)
def test_what_no_server_wrote_is_refused(members: list, reason: str, tmp_path: Path) -> None:
    (tmp_path / "b.tar.zst").write_bytes(packed(*members))
    with pytest.raises((DamagedError, StorageError), match=reason):
        restore(tmp_path / "b.tar.zst", Place(tmp_path / "new"))
    assert not (tmp_path / "x").exists()


def test_a_database_of_another_version_is_not_backed_up(filled: Subject, tmp_path: Path) -> None:
    engine = open_engine(filled.database)
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM alembic_version"))
    engine.dispose()
    with pytest.raises(StorageError, match=r"has version None, expected \d+"):
        back_up(filled, tmp_path / "b.tar.zst", 5.0)
    assert not list(tmp_path.glob("*.tar.zst*"))
