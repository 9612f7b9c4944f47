from pathlib import Path

import pytest

from server.errors import StorageError
from server.partial_files import PartialFiles
from wire_protocol import chunking
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import Manifest
from wire_protocol.topics import Part

PAYLOAD = bytes(range(25))
MANIFEST = chunking.manifest_of(PAYLOAD, 10)
ROOM = 25 + 20 + 3 * 4


def part(device: str = "a", number: int = 1, run: str = "run") -> Part:
    return Part(device, run, number, None)


def add(files: PartialFiles, *indices: int, device: str = "a", number: int = 1, payload: bytes = PAYLOAD) -> object:
    manifest = chunking.manifest_of(payload, 10)
    kept = files.open(part(device, number), manifest)
    for index in indices:
        kept.add(index, chunking.chunk(payload, manifest, index))
    return kept


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_chunks_survive_and_the_payload_is_whole(tmp_path: Path) -> None:
    for index in (2, 0):
        add(PartialFiles(tmp_path, "run"), index)
    kept = PartialFiles(tmp_path, "run").open(part(), MANIFEST)
    assert kept.arrived.missing() == (1,)
    assert kept.add(1, PAYLOAD[10:20])
    assert not kept.add(1, PAYLOAD[10:20])
    assert kept.complete
    assert kept.payload() == PAYLOAD


def test_files_are_named_by_run_round_device_and_hash(tmp_path: Path) -> None:
    add(PartialFiles(tmp_path, "run"), 0, device="kitchen", number=7)
    stem = f"run.7.kitchen.{MANIFEST.sha256.hex()}"
    assert names(tmp_path) == [f"{stem}.data", f"{stem}.journal"]


def test_an_announcement_alone_takes_no_room(tmp_path: Path) -> None:
    files = PartialFiles(tmp_path, "run")
    files.open(part(), MANIFEST)
    assert (names(tmp_path), files.bytes_kept) == ([], 0)


@pytest.mark.parametrize("cut", [0, 3, 19, 20, 21, 23, 24, 27])
def test_a_journal_torn_anywhere_loses_only_what_it_does_not_name(tmp_path: Path, cut: int) -> None:
    add(PartialFiles(tmp_path, "run"), 0, 1)
    (journal,) = tmp_path.glob("*.journal")
    journal.write_bytes(journal.read_bytes()[:cut])
    kept = PartialFiles(tmp_path, "run").open(part(), MANIFEST)
    assert kept.arrived.missing() == ((0, 1, 2) if cut < 24 else (1, 2))
    for index in kept.arrived.missing():
        kept.add(index, chunking.chunk(PAYLOAD, MANIFEST, index))
    assert kept.payload() == PAYLOAD
    kept = PartialFiles(tmp_path, "run").open(part(), MANIFEST)
    assert kept.arrived.missing() == (2,)


@pytest.mark.parametrize("entries", [b"\x03\x00\x00\x00", b"\xff\xff\xff\xff", bytes(4 * 7)])
def test_a_journal_that_was_not_written_here_is_started_over(tmp_path: Path, entries: bytes) -> None:
    add(PartialFiles(tmp_path, "run"), 0)
    (journal,) = tmp_path.glob("*.journal")
    journal.write_bytes(journal.read_bytes()[:20] + entries)
    kept = add(PartialFiles(tmp_path, "run"), 0, 1, 2)
    assert kept.payload() == PAYLOAD


def test_chunks_of_another_size_start_over(tmp_path: Path) -> None:
    files = PartialFiles(tmp_path, "run")
    add(files, 0)
    manifest = chunking.manifest_of(PAYLOAD, 12)
    for opened in (files, PartialFiles(tmp_path, "run")):
        kept = opened.open(part(), manifest)
        assert kept.arrived.missing() == (0, 1, 2)
    for index in range(3):
        kept.add(index, chunking.chunk(PAYLOAD, manifest, index))
    assert kept.payload() == PAYLOAD


def test_bytes_that_a_power_cut_mixed_up_are_needed_again(tmp_path: Path) -> None:
    add(PartialFiles(tmp_path, "run"), 0, 1)
    (data,) = tmp_path.glob("*.data")
    data.write_bytes(bytes(20))
    kept = PartialFiles(tmp_path, "run").open(part(), MANIFEST)
    kept.add(2, PAYLOAD[20:])
    with pytest.raises(ProtocolError, match="SHA-256"):
        kept.payload()
    assert kept.arrived.missing() == (0, 1, 2)
    assert add(PartialFiles(tmp_path, "run"), 0, 1, 2).payload() == PAYLOAD


def test_a_device_has_one_payload_here(tmp_path: Path) -> None:
    files = PartialFiles(tmp_path, "run")
    old = add(files, 0)
    new = add(files, 0, payload=PAYLOAD[::-1])
    assert len(names(tmp_path)) == 2
    assert files.bytes_kept == ROOM
    files.remove(old)
    assert len(names(tmp_path)) == 2
    files.remove(new)
    assert (names(tmp_path), files.bytes_kept) == ([], 0)


def test_beyond_the_limit_the_payload_unused_longest_goes(tmp_path: Path) -> None:
    files = PartialFiles(tmp_path, "run", max_bytes=2 * ROOM)
    a, b = add(files, 0, device="a"), add(files, 0, device="b")
    a.add(1, PAYLOAD[10:20])
    add(files, 0, device="c")
    assert files.bytes_kept == 2 * ROOM
    assert {name.split(".")[2] for name in names(tmp_path)} == {"a", "c"}
    b.add(2, PAYLOAD[20:])
    assert b.arrived.missing() == (0, 1)
    a.add(0, PAYLOAD[:10])
    assert a.arrived.missing() == (1, 2)


def test_a_payload_larger_than_the_limit_is_here_alone(tmp_path: Path) -> None:
    files = PartialFiles(tmp_path, "run", max_bytes=1)
    add(files, 0, device="a")
    add(files, 0, device="b")
    assert {name.split(".")[2] for name in names(tmp_path)} == {"b"}


def test_what_an_earlier_process_left_counts_and_rubbish_goes(tmp_path: Path) -> None:
    files = PartialFiles(tmp_path, "run")
    add(files, 0, device="a")
    add(files, 0, device="b")
    stem = f"run.1.c.{'0' * 64}"
    for name in (f"{stem}.data", f"run.1.d.{'0' * 64}.journal", "run.journal", "run.1.../x.e.journal"):
        (tmp_path / name.replace("/", "")).write_bytes(b"FJ1\n")
    (tmp_path / "other.1.a.0.data").write_bytes(b"of another run")
    again = PartialFiles(tmp_path, "run")
    assert again.bytes_kept == 2 * ROOM
    assert {name.split(".")[2] for name in names(tmp_path) if name.startswith("run.")} == {"a", "b"}
    again.forget_before(3)
    assert names(tmp_path) == ["other.1.a.0.data"]


def test_payloads_of_rounds_that_are_over_go(tmp_path: Path) -> None:
    for device, number in (("a", 1), ("b", 11), ("c", 2)):
        add(PartialFiles(tmp_path, "run"), 0, device=device, number=number)
    files = PartialFiles(tmp_path, "run")
    files.forget_before(3)
    assert {name.split(".")[2] for name in names(tmp_path)} == {"b"}
    assert files.bytes_kept == ROOM


def test_a_disk_that_takes_nothing_more_is_said_and_the_chunk_is_not_here(tmp_path: Path) -> None:
    files = PartialFiles(tmp_path / "partial", "run")
    kept = add(files, 0)
    for path in (tmp_path / "partial").iterdir():
        path.unlink()
    with pytest.raises(StorageError, match=r"chunk 1 cannot be written \(No such file"):
        kept.add(1, PAYLOAD[10:20])
    assert kept.arrived.missing() == (1, 2)
    kept.arrived.add(1)
    with pytest.raises(StorageError, match="cannot be read"):
        kept.payload()
    assert kept.arrived.missing() == (0, 1, 2)
    kept = add(files, 0, 1, 2)
    assert kept.payload() == PAYLOAD


def test_a_folder_that_cannot_be_made_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="cannot be used"):
        PartialFiles(tmp_path / "file" / "partial", "run")


def test_a_chunk_the_manifest_does_not_have_touches_nothing(tmp_path: Path) -> None:
    kept = PartialFiles(tmp_path, "run").open(part(), Manifest(sha256=bytes(32), size=25, chunk_bytes=10))
    with pytest.raises(ProtocolError, match="chunk 3"):
        kept.add(3, b"x")
    assert names(tmp_path) == []
