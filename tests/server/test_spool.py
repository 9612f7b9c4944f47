import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.errors import DamagedError, StorageError
from server.spool import Extent, Segment, Spool


@pytest.fixture
def segment(tmp_path: Path) -> Segment:
    return Spool(tmp_path, "run").segment(1, 0)


def path(folder: Path) -> Path:
    return folder / "spool" / "run" / "1.segment"


def test_what_is_written_is_read_back(segment: Segment) -> None:
    first = segment.write([b"one", b"three"])
    assert first == [Extent(0, 3), Extent(3, 5)]
    segment.commit(8)
    (second,) = segment.write([b"four"])
    assert second == Extent(8, 4)
    assert segment.read([*first, second]) == [b"one", b"three", b"four"]


def test_a_body_is_written_before_the_next_is_asked_for(segment: Segment, tmp_path: Path) -> None:
    def bodies() -> Iterator[bytes]:
        yield b"one"
        assert path(tmp_path).read_bytes() == b"one"
        yield b"two"
        assert path(tmp_path).read_bytes() == b"onetwo"

    assert segment.write(bodies()) == [Extent(0, 3), Extent(3, 3)]


def test_what_was_not_committed_is_written_over(segment: Segment, tmp_path: Path) -> None:
    segment.write([b"never committed, and longer"])
    (extent,) = segment.write([b"committed"])
    segment.commit(extent.length)
    assert extent == Extent(0, 9)
    assert segment.read([extent]) == [b"committed"]


def test_after_a_crash_what_no_row_speaks_for_is_cut_off(segment: Segment, tmp_path: Path) -> None:
    segment.write([b"committed", b"never"])
    again = Spool(tmp_path, "run").segment(1, 9)
    assert path(tmp_path).read_bytes() == b"committed"
    assert again.end == 9
    assert again.write([b"next"]) == [Extent(9, 4)]
    assert path(tmp_path).read_bytes() == b"committednext"


def test_nothing_to_write_makes_no_file(segment: Segment, tmp_path: Path) -> None:
    assert segment.write([]) == []
    assert not path(tmp_path).exists()


def test_a_segment_shorter_than_its_rows_say_is_damaged(segment: Segment, tmp_path: Path) -> None:
    segment.write([b"four"])
    with pytest.raises(DamagedError, match=r"1\.segment has 4 bytes, the database speaks of 5"):
        Spool(tmp_path, "run").segment(1, 5)
    with pytest.raises(DamagedError, match=r"2\.segment has 0 bytes"):
        Spool(tmp_path, "run").segment(2, 5)
    with pytest.raises(DamagedError, match="ends before byte 5"):
        segment.read([Extent(2, 3)])


def test_all_is_synced_before_write_returns(segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = []
    sync = os.fsync

    def noting(descriptor: int) -> None:
        file = Path(f"/proc/self/fd/{descriptor}").readlink()
        synced.append((file.name, file.stat().st_size if file.is_file() else None))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", noting)
    segment.write([b"one", b"three"])
    assert ("1.segment", 8) in synced
    folders = [name for name, size in synced if size is None]
    assert folders == [tmp_path.name, "spool", "run"]


@pytest.mark.parametrize("call", ["pwrite", "fsync", "open"])
def test_a_disk_that_fails_changes_nothing(
    segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    segment.write([b"one"])
    segment.commit(3)

    def fails(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fails)
        with pytest.raises(StorageError, match=r"1\.segment cannot be written \(No space left on device\)"):
            segment.write([b"two"])
    assert segment.end == 3
    assert segment.write([b"second"]) == [Extent(3, 6)]
    assert path(tmp_path).read_bytes() == b"onesecond"


def test_a_short_write_is_gone_on_with(segment: Segment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, offset: write(descriptor, content[:2], offset))
    segment.write([b"one", b"three"])
    assert path(tmp_path).read_bytes() == b"onethree"


def test_segments_of_other_rounds_are_deleted(tmp_path: Path) -> None:
    spool, other = Spool(tmp_path, "run"), Spool(tmp_path, "other")
    spool.delete_others(None)
    for number in (1, 2, 3):
        spool.segment(number, 0).write([b"x"])
    other.segment(1, 0).write([b"x"])
    spool.delete_others(2)
    assert [file.name for file in (tmp_path / "spool" / "run").iterdir()] == ["2.segment"]
    spool.delete_others(None)
    assert list((tmp_path / "spool" / "run").iterdir()) == []
    assert other.segment(1, 1).read([Extent(0, 1)]) == [b"x"]


@given(
    st.lists(
        st.tuples(
            st.lists(st.binary(min_size=1, max_size=20), max_size=4), st.sampled_from(["commit", "fail", "crash"])
        )
    )
)
def test_committed_bodies_survive_any_story(tmp_path_factory: pytest.TempPathFactory, story: list) -> None:
    spool = Spool(tmp_path_factory.mktemp("spool"), "run")
    segment, end, rows = spool.segment(1, 0), 0, []
    for bodies, fate in story:
        extents = segment.write(bodies)
        if fate == "commit":
            rows += zip(extents, bodies, strict=True)
            end += sum(len(body) for body in bodies)
            segment.commit(end)
        elif fate == "crash":
            segment = spool.segment(1, end)
    assert not rows or segment.read([extent for extent, _ in rows]) == [body for _, body in rows]
