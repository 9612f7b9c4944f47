from pathlib import Path

import pytest

from server.allowance import Allowance
from server.courier import BYTES_AT_ONCE, Courier, Piece
from server.errors import StorageError
from server.sealed_files import BUSY_SECONDS, PER_DEVICE, SealedFiles
from wire_protocol.messages import Want

PATH = "models/" + "0" * 64
DIGEST = bytes(32)


def want(*missing: int) -> Want:
    return Want(path=PATH, sha256=DIGEST if missing else b"", missing=missing)


def drain(courier: Courier) -> list[tuple[str, int | None]]:
    pieces = []
    while (piece := courier.take()) is not None:
        pieces.append((piece.device, piece.chunk))
    return pieces


def test_devices_take_turns_and_the_last_want_stands() -> None:
    courier = Courier(100, lambda: 0.0)
    assert courier.want("a", want(9))
    assert courier.want("a", want(0, 1, 2))
    assert courier.want("b", want(5, 6))
    assert courier.want("c", want())
    assert drain(courier) == [("a", 0), ("b", 5), ("c", None), ("a", 1), ("b", 6), ("a", 2)]


def test_what_is_of_no_use_is_dropped_but_not_what_was_asked_since() -> None:
    courier, first, second = Courier(100, lambda: 0.0), want(0, 1), want(2, 3)
    courier.want("a", first)
    assert courier.take() == Piece("a", first, 0)
    courier.want("a", second)
    courier.drop("a", first)
    assert drain(courier) == [("a", 2), ("a", 3)]
    courier.want("a", second)
    courier.drop("a", second)
    assert not drain(courier)


def test_a_device_that_asks_for_too_much_is_not_heard_for_a_while_and_others_are() -> None:
    now = [0.0]
    courier = Courier(2**20, lambda: now[0])
    heard = 0
    while courier.want("a", want(*range(64))):
        heard += 1
    assert 1 <= heard <= BYTES_AT_ONCE // (64 * 2**20) + 1
    assert courier.want("b", want(0))
    now[0] = 60.0
    assert courier.want("a", want(0))


def test_costs_count() -> None:
    now = [0.0]
    allowance = Allowance(1.0, 10, lambda: now[0])
    assert allowance.take("a", 10)
    assert not allowance.take("a")
    now[0] = 1.0
    assert allowance.take("a")


def test_the_store_is_bounded_and_what_is_in_use_stays(tmp_path: Path) -> None:
    now = [0.0]
    files = SealedFiles(tmp_path, lambda: now[0], max_bytes=250)
    first = files.add("a", "1" * 32, bytes(100), 10)
    assert files.add("b", "1" * 32, bytes(100), 10)
    assert files.add("c", "1" * 32, bytes(100), 10) is None
    now[0] = BUSY_SECONDS / 2
    assert files.find("a", "1" * 32) == first
    now[0] = BUSY_SECONDS
    assert files.add("c", "1" * 32, bytes(100), 10)
    assert files.find("b", "1" * 32) is None
    assert files.find("a", "1" * 32) == first
    assert files.bytes_kept == 200 == sum(path.stat().st_size for path in tmp_path.iterdir())
    assert files.add("d", "1" * 32, bytes(251), 10) is None


def test_a_device_has_few_payloads_and_its_oldest_goes_first(tmp_path: Path) -> None:
    now = [0.0]
    files = SealedFiles(tmp_path, lambda: now[0])
    for number in range(PER_DEVICE + 2):
        now[0] += 1.0
        kept = files.add("a", f"{number}" * 32, b"x" * 10, 4)
    assert kept is not None
    assert files.chunk(kept, 2) == b"xx"
    assert len(list(tmp_path.iterdir())) == PER_DEVICE
    assert files.find("a", "1" * 32) is None


def test_a_new_server_finds_payloads_and_clears_what_is_none(tmp_path: Path) -> None:
    kept = SealedFiles(tmp_path, lambda: 0.0).add("a", "1" * 32, bytes(100), 10)
    (tmp_path / ".half.partial").write_bytes(b"?")
    again = SealedFiles(tmp_path, lambda: 0.0)
    assert again.find("a", "1" * 32) == kept
    assert len(list(tmp_path.iterdir())) == 1
    next(tmp_path.iterdir()).unlink()
    assert kept is not None
    with pytest.raises(StorageError, match="cannot be read"):
        again.chunk(kept, 0)
