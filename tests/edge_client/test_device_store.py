"""The store through kills at every step of every write, and on disks that are full or read-only."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from edge_client.device_store import DeviceStore
from edge_client.errors import OutboxError
from edge_client.round_events import Selection
from tests.edge_client.fuse import Fuse, Killed
from wire_protocol.sub_model import SubModel


def chosen(number: int) -> Selection:
    return Selection("r", "b" * 64, 1, number, SubModel({"g": np.array([number])}))


def opened(folder) -> DeviceStore:
    return DeviceStore(folder, "f", 100_000)


@pytest.fixture
def fuse(monkeypatch):
    fuse = Fuse()
    fuse.put_in(monkeypatch)
    return fuse


def a_round(store: DeviceStore, number: int, payload: bytes) -> None:
    """Train, unless the round has an answer; then the receipt comes."""
    if store.memory.newest.get("r", 0) < number:
        store.store("r", number, payload, chosen(number))
    for parcel in store.parcels:
        store.settle(parcel, accepted=True)


def test_a_kill_at_any_step_neither_loses_a_stored_update_nor_trains_its_round_again(tmp_path, fuse):
    steps = 0
    finished = False
    while not finished:
        folder = tmp_path / str(steps)
        a_round(opened(folder), 1, b"first")
        fuse.left = steps
        try:
            a_round(opened(folder), 2, b"second")
            finished = True
        except Killed:
            pass
        fuse.left = 10**9

        restarted = opened(folder)
        waiting = [restarted.payload(parcel) for parcel in restarted.parcels]
        answered = restarted.memory.newest["r"] == 2
        assert waiting in ([], [b"second"])
        assert answered or not waiting
        assert restarted.memory.newest["r"] >= 1
        if finished or (answered and not waiting):
            assert restarted.memory.selections["r"] == chosen(2)
        a_round(restarted, 2, b"second, trained again")
        last = opened(folder)
        assert last.parcels == ()
        assert last.memory.newest == {"r": 2}
        assert last.memory.selections["r"] == chosen(2)
        steps += 1
    assert steps > 10


def test_a_round_is_answered_as_soon_as_its_payload_is_on_disk(tmp_path):
    store = opened(tmp_path)
    store.store("r", 5, b"x", None)
    (tmp_path / "memory").unlink()
    assert opened(tmp_path).memory.newest == {"r": 5}


def test_the_first_payload_of_a_round_stays(tmp_path):
    store = opened(tmp_path)
    first = store.store("r", 1, b"first", None)
    assert store.store("r", 1, b"second", None).parcel == first.parcel
    assert opened(tmp_path).payload(first.parcel) == b"first"


def test_a_refused_update_goes_and_its_neurons_stay_until_the_next_resync(tmp_path):
    store = opened(tmp_path)
    store.settle(store.store("r", 1, b"x", chosen(1)).parcel, accepted=False)
    assert opened(tmp_path).parcels == ()
    assert opened(tmp_path).memory.selections["r"] == chosen(1)
    assert opened(tmp_path).memory.newest == {"r": 1}


def failing(monkeypatch, number: int, only: str = "") -> None:
    """Let every write fail below folders whose name contains `only`."""
    real = Path.open

    def broken(path, mode="r", *arguments, **keywords):
        if "w" in mode and only in str(path):
            raise OSError(number, os.strerror(number), str(path))
        return real(path, mode, *arguments, **keywords)

    monkeypatch.setattr(Path, "open", broken)


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the disk is read-only")]
)
def test_a_disk_that_takes_nothing_is_said_in_plain_words_and_works_again_later(tmp_path, monkeypatch, number, words):
    store = opened(tmp_path)
    with monkeypatch.context() as context:
        failing(context, number)
        with pytest.raises(OutboxError, match=words):
            store.store("r", 1, b"x", chosen(1))
        with pytest.raises(OutboxError, match=words):
            store.require_room(1)
        assert store.parcels == ()
        assert not list(tmp_path.rglob("*.new"))
    store.require_room(1)
    store.store("r", 1, b"x", chosen(1))
    assert [parcel.round for parcel in opened(tmp_path).parcels] == [1]


def test_a_receipt_on_a_full_disk_makes_room_and_loses_nothing(tmp_path, monkeypatch):
    store = opened(tmp_path)
    parcel = store.store("r", 1, b"x", chosen(1)).parcel
    failing(monkeypatch, errno.ENOSPC)
    store.settle(parcel, accepted=True)
    assert store.memory.selections["r"] == chosen(1)
    restarted = opened(tmp_path)
    assert restarted.parcels == ()
    assert restarted.memory.selections["r"] == chosen(1)
    assert restarted.memory.newest == {"r": 1}


def test_a_payload_whose_round_could_not_be_remembered_stays_until_it_can(tmp_path, monkeypatch):
    store = opened(tmp_path)
    with monkeypatch.context() as context:
        failing(context, errno.ENOSPC, only="memory")
        parcel = store.store("r", 1, b"x", None).parcel
        store.settle(parcel, accepted=False)
        assert store.parcels == ()
    restarted = opened(tmp_path)
    assert restarted.memory.newest == {"r": 1}
    assert restarted.parcels == (parcel,)
    restarted.settle(parcel, accepted=False)
    assert opened(tmp_path).parcels == ()


def test_too_little_room_is_said_before_anyone_trains(tmp_path):
    with pytest.raises(OutboxError, match="bytes free, an update may need"):
        opened(tmp_path).require_room(2**60)
