import errno
import os
import shutil
from collections import namedtuple

import pytest

from edge_client.errors import ReleaseDiskError, ReleaseError
from edge_client.updates.choice import Choice
from edge_client.updates.launch import version_of
from edge_client.updates.release_folder import ReleaseFolder
from tests.edge_client.fuse import Fuse, Killed
from tests.edge_client.updates.release_trees import archive_of, release_of

Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def archive(tmp_path) -> bytes:
    return archive_of(tmp_path, "0.2.0")


def fetched(folder: ReleaseFolder, archive: bytes, version: str = "0.2.0"):
    release = release_of(archive, version)
    folder.archive(release).write_bytes(archive)
    return release


def names(tmp_path) -> set[str]:
    return {path.name for path in (tmp_path / "releases").iterdir()}


def test_a_release_is_installed_beside_the_one_that_runs(tmp_path, archive):
    folder = ReleaseFolder(tmp_path / "releases", "0.1.0")
    folder.install(fetched(folder, archive))
    assert names(tmp_path) == {"0.2.0"}
    assert version_of(tmp_path / "releases" / "0.2.0") == "0.2.0"
    assert (tmp_path / "releases").stat().st_mode & 0o777 == 0o700


def test_at_most_the_confirmed_release_and_one_more_are_kept(tmp_path):
    folder = ReleaseFolder(tmp_path / "releases", "0.1.0")
    for version in ("0.2.0", "0.3.0", "0.4.0"):
        folder.install(fetched(folder, archive_of(tmp_path, version), version))
        folder.choose(Choice().with_trial(version, 1).proven() if version == "0.2.0" else folder.choice())
    assert names(tmp_path) == {"choice", "0.2.0", "0.4.0"}
    folder.tidy()
    assert names(tmp_path) == {"choice", "0.2.0"}
    ReleaseFolder(tmp_path / "releases", "0.2.0").choose(Choice())
    ReleaseFolder(tmp_path / "releases", "0.2.0").tidy()
    assert names(tmp_path) == {"choice", "0.2.0"}


def test_what_else_lies_there_is_tidied_away_and_links_are_not_followed(tmp_path):
    folder = ReleaseFolder(tmp_path / "releases", "0.1.0")
    folder.choose(Choice())
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").touch()
    (tmp_path / "releases" / "removing" / "deep").mkdir(parents=True)
    (tmp_path / "releases" / "0.0.1").symlink_to(tmp_path / "kept")
    (tmp_path / "releases" / "0.9.0.archive.part").touch()
    folder.tidy()
    assert names(tmp_path) == {"choice"}
    assert (tmp_path / "kept" / "file").exists()


def test_what_was_fetched_of_the_wanted_release_stays(tmp_path, archive):
    folder = ReleaseFolder(tmp_path / "releases", "0.1.0")
    for version in ("0.2.0", "0.3.0"):
        path = folder.archive(release_of(archive, version))
        path.with_name(f"{path.name}.part").write_bytes(b"half")
    assert names(tmp_path) == {"0.3.0.archive.part"}


def test_a_kill_at_any_step_leaves_no_half_of_a_release(tmp_path, archive, monkeypatch):
    fuse, steps, done = Fuse(), 0, False
    fuse.put_in(monkeypatch)
    place = tmp_path / "releases"
    while not done:
        fuse.left = 10**9
        shutil.rmtree(place, ignore_errors=True)
        folder = ReleaseFolder(place, "0.1.0")
        folder.install(fetched(folder, archive))
        release = fetched(folder, archive)
        fuse.left = steps
        try:
            folder.install(release)
            folder.choose(Choice().with_trial("0.2.0", 1))
            done = True
        except Killed:
            pass
        fuse.left = 10**9
        if (place / "0.2.0").exists():
            assert version_of(place / "0.2.0") == "0.2.0"
            assert (place / "0.2.0" / "edge_client" / "runner.py").exists()
        else:
            assert folder.choice().trial == ""
        again = ReleaseFolder(place, "0.1.0")
        if not (place / "0.2.0").exists():
            again.install(fetched(again, archive))
        assert names(tmp_path) <= {"choice", "choice.new", "0.2.0", "0.2.0.archive", "unpacking", "removing"}
        again.tidy()
        assert names(tmp_path) <= {"choice", "0.2.0"}
        steps += 1
    assert steps > 15


def test_a_full_disk_is_said_before_anything_is_fetched_and_after(tmp_path, archive, monkeypatch):
    folder = ReleaseFolder(tmp_path / "releases", "0.1.0")
    release = fetched(folder, archive)
    with monkeypatch.context() as context:
        context.setattr(shutil, "disk_usage", lambda path: Usage(10**9, 10**9, 10**6))
        with pytest.raises(ReleaseDiskError, match=r"has 1000000 bytes free, release 0\.2\.0 needs"):
            folder.require_room(release)
    folder.require_room(release)
    with monkeypatch.context() as context:
        context.setattr(os, "fsync", lambda descriptor: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        with pytest.raises(ReleaseDiskError, match="the disk is full"):
            folder.choose(Choice().with_trial("0.2.0", 1))
    assert folder.choice() == Choice()


def test_an_archive_that_is_not_legal_leaves_nothing(tmp_path):
    folder = ReleaseFolder(tmp_path / "releases", "0.1.0")
    with pytest.raises(ReleaseError, match="cannot be read") as caught:
        folder.install(fetched(folder, b"no archive"))
    assert not isinstance(caught.value, ReleaseDiskError)
    assert names(tmp_path) == {"0.2.0.archive"}
