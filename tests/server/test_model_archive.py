from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import URL

from server.blobs import Blobs
from server.database import Database
from server.errors import StorageError, UnknownRunError
from server.model_archive import ModelArchive
from server.records import RoundRecord

RECORD = RoundRecord(*(1, True, 0.5, 1.25, 2, 1, 10, 20, 100, 100, 7, 8, 9, 1.5, 1))


@pytest.fixture
def blobs(tmp_path: Path) -> Blobs:
    return Blobs((tmp_path / "blobs").as_uri())


@pytest.fixture
def archive(database_url: URL, blobs: Blobs) -> ModelArchive:
    database, moments = Database(database_url), count(100)
    yield ModelArchive(database, blobs, lambda: float(next(moments)), keep=2)
    database.close()


@pytest.fixture
def add(archive: ModelArchive, tmp_path: Path) -> Callable[..., None]:
    def add(version: int, content: bytes = b"", run: str = "run", **changes: object) -> None:
        path = tmp_path / "model"
        path.write_bytes(content or f"{run} {version}".encode())
        archive.add(run, replace(RECORD, **{"round": version, "model_version": version, **changes}), path)

    return add


def numbers(archive: ModelArchive, run: str = "run") -> list[int]:
    return [each.version for each in archive.versions(run)]


def kept(tmp_path: Path) -> int:
    return len(list((tmp_path / "blobs").iterdir()))


def test_a_version_is_what_its_round_made(archive: ModelArchive, add: Callable) -> None:
    add(1, accuracy=0.25, loss=2.0)
    (version,) = archive.versions("run")
    assert (version.round, version.accuracy, version.loss, version.at, version.size) == (1, 0.25, 2.0, 100.0, 5)
    assert archive.open("run", 1) == b"run 1"
    assert not version.promoted
    for run, number, there in (("run", 2, "these are: 1"), ("other", 1, "none is")):
        with pytest.raises(UnknownRunError, match=f"^version {number} of run {run} is not archived; {there}$"):
            archive.open(run, number)


def test_the_newest_and_the_best_and_the_promoted_stay(archive: ModelArchive, add: Callable, tmp_path: Path) -> None:
    for version, accuracy in enumerate((0.1, 0.9, 0.3, 0.9, 0.5), start=1):
        add(version, accuracy=accuracy)
        if version == 2:
            archive.promote("run", 1)
    assert numbers(archive) == [1, 4, 5]
    archive.promote("run", 5)
    assert [each.promoted for each in archive.versions("run")] == [False, False, True]
    add(6, accuracy=0.2)
    assert numbers(archive) == [4, 5, 6]
    assert kept(tmp_path) == 3
    with pytest.raises(UnknownRunError, match=r"version 1 of run run is not archived; these are: 4, 5, 6$"):
        archive.promote("run", 1)
    assert [each.version for each in archive.versions("run") if each.promoted] == [5]


def test_an_error_names_the_newest_of_many(archive: ModelArchive, add: Callable, monkeypatch) -> None:
    monkeypatch.setattr("server.model_archive._SHOWN", 2)
    for version in (1, 2, 3):
        add(version, accuracy=1 / version)
    with pytest.raises(UnknownRunError, match=r"these are: 2, 3 and 1 older ones$"):
        archive.version("run", 4)


def test_without_accuracy_the_least_loss_is_best(archive: ModelArchive, add: Callable) -> None:
    for version, loss in enumerate((2.0, 1.0, float("nan"), 3.0, None), start=1):
        add(version, accuracy=None, loss=loss)
    assert numbers(archive) == [2, 4, 5]


def test_runs_are_apart_and_may_share_content(archive: ModelArchive, add: Callable, tmp_path: Path) -> None:
    add(1, b"same", run="other", accuracy=0.1)
    for version in (1, 2, 3):
        add(version, b"same" if version == 1 else b"", accuracy=version / 10)
    assert (numbers(archive), numbers(archive, "other"), kept(tmp_path)) == ([2, 3], [1], 3)
    assert archive.open("other", 1) == b"same"


def test_a_version_may_be_added_again_and_with_other_content(
    archive: ModelArchive, add: Callable, tmp_path: Path
) -> None:
    add(1)
    archive.promote("run", 1)
    add(1)
    assert (numbers(archive), kept(tmp_path)) == ([1], 1)
    add(1, b"of more updates", accuracy=0.75)
    assert archive.open("run", 1) == b"of more updates"
    assert (archive.versions("run")[0].accuracy, archive.versions("run")[0].promoted) == (0.75, True)
    assert kept(tmp_path) == 1


def test_what_a_kill_left_half_deleted_is_finished(
    archive: ModelArchive, add: Callable, blobs: Blobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in (1, 2):
        add(version, accuracy=version / 10)
    with monkeypatch.context() as patch:
        patch.setattr("server.model_archive.delete", lambda _table: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            add(3)
    assert numbers(archive) == [1, 2, 3]
    add(3)
    assert (numbers(archive), kept(tmp_path)) == ([2, 3], 2)


def test_a_store_that_fails_changes_no_row(archive: ModelArchive, add: Callable, blobs: Blobs, tmp_path: Path) -> None:
    (tmp_path / "blobs").write_text("in the way")
    with pytest.raises(StorageError):
        add(1)
    assert archive.versions("run") == ()
    (tmp_path / "blobs").unlink()
    add(1)
    assert numbers(archive) == [1]
