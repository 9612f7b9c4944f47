import logging
import os
import random

import numpy as np
import pytest

from edge_client import outbox as module
from edge_client.errors import DamagedFileError
from edge_client.outbox import Outbox
from edge_client.round_events import Selection
from wire_protocol.chunking import manifest_of
from wire_protocol.sub_model import SubModel

FLEET = "f"
ROOM = 10_000


def chosen(number: int = 1) -> Selection:
    return Selection("r", "b" * 64, 1, number, SubModel({"g": np.array([0, 5, 70_000]), "h": np.array([1])}))


def opened(folder, fleet: str = FLEET, room: int = ROOM) -> Outbox:
    box = Outbox(folder / "outbox", fleet, room)
    box.load()
    return box


def rounds(box: Outbox) -> list[int]:
    return [parcel.round for parcel in box.parcels]


def only_file(folder):
    (path,) = (folder / "outbox").iterdir()
    return path


def test_what_is_added_is_there_after_a_restart_with_all_that_is_needed_to_go_on(tmp_path):
    opened(tmp_path).add("r", 7, b"sealed" * 100, chosen(7))
    (parcel,) = opened(tmp_path).parcels
    assert (parcel.run, parcel.round, parcel.manifest) == ("r", 7, manifest_of(b"sealed" * 100))
    assert parcel.selection == chosen(7)
    kept = parcel.selection.sub_model.kept
    assert {group: indices.tolist() for group, indices in kept.items()} == {"g": [0, 5, 70_000], "h": [1]}
    assert all(indices.dtype == np.int64 for indices in kept.values())
    assert opened(tmp_path).payload(parcel) == b"sealed" * 100


def test_the_newest_comes_first_also_after_a_restart_and_whatever_the_run(tmp_path):
    box = opened(tmp_path)
    for run, number in (("r", 9), ("s", 1), ("r", 10)):
        box.add(run, number, b"x", None)
    assert [parcel.key for parcel in box.parcels] == [("r", 10), ("s", 1), ("r", 9)]
    again = opened(tmp_path)
    again.add("s", 2, b"x", None)
    assert [parcel.key for parcel in again.parcels] == [("s", 2), ("r", 10), ("s", 1), ("r", 9)]


def test_a_round_has_one_payload_for_ever(tmp_path):
    box = opened(tmp_path)
    box.add("r", 1, b"first", None)
    box.add("r", 1, b"second", None)
    assert [box.payload(parcel) for parcel in opened(tmp_path).parcels] == [b"first"]


def test_a_removed_parcel_stays_away(tmp_path):
    box = opened(tmp_path)
    box.add("r", 1, b"x", None)
    box.remove(box.of_round("r", 1))
    assert box.parcels == opened(tmp_path).parcels == ()


def test_the_oldest_makes_room_for_the_newest_and_the_log_says_so(tmp_path, caplog):
    box = opened(tmp_path)
    for number in (1, 2, 3):
        box.add("r", number, bytes(4000), None)
    assert rounds(box) == rounds(opened(tmp_path)) == [3, 2]
    assert "run r round 1: dropped from the outbox before its receipt came" in caplog.text
    assert [parcel.round for parcel in box.add("r", 4, bytes(9000), None)] == [2, 3]
    assert rounds(box) == [4]


def test_a_smaller_limit_holds_from_the_next_start_on(tmp_path):
    box = opened(tmp_path)
    for number in (1, 2, 3):
        box.add("r", number, bytes(3000), None)
    assert rounds(opened(tmp_path, room=6500)) == rounds(opened(tmp_path)) == [3, 2]


def test_the_number_of_parcels_is_bounded_too(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_PARCELS", 3)
    box = opened(tmp_path)
    for number in range(1, 6):
        box.add("r", number, b"x", None)
    assert rounds(box) == [5, 4, 3]


def test_a_file_cut_at_any_length_is_ignored_with_a_log_line(tmp_path, caplog):
    opened(tmp_path).add("r", 1, b"sealed" * 20, chosen())
    path = only_file(tmp_path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        caplog.clear()
        assert opened(tmp_path).parcels == ()
        assert "is damaged: the update of this round is lost" in caplog.text
        assert not path.exists()
    path.write_bytes(whole)
    assert rounds(opened(tmp_path)) == [1]


def test_any_flipped_byte_is_noticed(tmp_path, caplog):
    opened(tmp_path).add("r", 1, b"sealed" * 20, chosen())
    path = only_file(tmp_path)
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ random.Random(at).randrange(1, 256)]) + whole[at + 1 :])
        assert opened(tmp_path).parcels == ()
    assert len(caplog.records) == len(whole)


@pytest.mark.parametrize(
    "spoil", [lambda whole: whole[:-1], lambda whole: whole[:-1] + b"!", lambda whole: whole + b"!"]
)
def test_a_file_that_rots_while_the_device_runs_is_never_sent(tmp_path, spoil):
    box = opened(tmp_path)
    box.add("r", 1, b"sealed", None)
    path = only_file(tmp_path)
    path.write_bytes(spoil(path.read_bytes()))
    with pytest.raises(DamagedFileError, match="lost"):
        box.payload(box.of_round("r", 1))
    assert box.parcels == ()


def test_a_file_that_vanishes_is_noticed(tmp_path):
    box = opened(tmp_path)
    box.add("r", 1, b"sealed", None)
    only_file(tmp_path).unlink()
    with pytest.raises(DamagedFileError):
        box.payload(box.of_round("r", 1))


def test_unfinished_files_of_a_killed_process_are_removed_and_others_left_alone(tmp_path, caplog):
    folder = tmp_path / "outbox"
    folder.mkdir()
    (folder / "r.1.sealed.new").write_bytes(b"half")
    (folder / "notes.txt").write_bytes(b"mine")
    assert opened(tmp_path).parcels == ()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert not caplog.records


def test_what_was_sealed_for_another_fleet_is_dropped(tmp_path, caplog):
    opened(tmp_path).add("r", 1, b"x", None)
    assert opened(tmp_path, fleet="other").parcels == ()
    assert "is of fleet 'f', this is other: it is dropped" in caplog.text


def test_a_file_under_another_rounds_name_is_ignored(tmp_path):
    opened(tmp_path).add("r", 1, b"x", None)
    path = only_file(tmp_path)
    path.rename(path.with_name("r.2.sealed"))
    assert opened(tmp_path).parcels == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_a_file_that_cannot_be_read_is_left_where_it_is(tmp_path, caplog):
    opened(tmp_path).add("r", 1, b"x", None)
    only_file(tmp_path).chmod(0)
    with caplog.at_level(logging.WARNING):
        assert opened(tmp_path).parcels == ()
    assert "cannot be read" in caplog.text
    assert only_file(tmp_path).exists()
