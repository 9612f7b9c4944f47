from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.admission import IDLE_SECONDS
from server.partial_files import PartialFiles
from server.uplink import MAX_NEED, Complete, Uplink, max_update_size
from wire_protocol import chunking, messages, tensor_codec
from wire_protocol.envelope import Context, seal
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import new_identity
from wire_protocol.messages import Manifest, Need, Update
from wire_protocol.sub_model import full_sub_model, sub_shapes, to_bitmaps
from wire_protocol.topics import Part

PAYLOAD = bytes(range(25))
MANIFEST = chunking.manifest_of(PAYLOAD, 10)
ALL = Need(run="run", round=1, missing=(0, 1, 2))


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def part(chunk: int | None = None, number: int = 1, device: str = "a") -> Part:
    return Part(device, "run", number, chunk)


def send(uplink: Uplink, payload: bytes, *indices: int, number: int = 1, device: str = "a") -> list[Complete]:
    manifest = chunking.manifest_of(payload, 10)
    answers = [uplink.chunk(part(i, number, device), chunking.chunk(payload, manifest, i)) for i in indices]
    return [answer for answer in answers if answer is not None]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=["in memory", "on disk"])
def make(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> Callable[..., Uplink]:
    def make(budget: int = 1000, max_payload: int = 100) -> Uplink:
        partial = PartialFiles(tmp_path / "partial", "run") if request.param == "on disk" else None
        return Uplink(budget, max_payload, partial, clock)

    return make


@pytest.fixture
def uplink(make: Callable[..., Uplink]) -> Uplink:
    return make()


@given(st.permutations([0, 1, 2, 0, 1]))
def test_chunks_in_any_order_and_repeated_complete_once(order: list[int]) -> None:
    uplink = Uplink(1000, 100, None, Clock())
    assert uplink.manifest(part(), MANIFEST) == ALL
    assert send(uplink, PAYLOAD, *order) == [Complete(part(order[last_new(order)]), MANIFEST.sha256, PAYLOAD)]


def last_new(order: list[int]) -> int:
    return max(order.index(index) for index in set(order))


def test_every_manifest_is_answered_with_what_is_missing(uplink: Uplink) -> None:
    assert uplink.manifest(part(), MANIFEST) == ALL
    assert uplink.manifest(part(), MANIFEST) == ALL
    send(uplink, PAYLOAD, 1)
    assert uplink.manifest(part(), MANIFEST) == Need(run="run", round=1, missing=(0, 2))
    assert uplink.tick() == []


def test_a_need_is_bounded_and_the_next_one_follows_when_it_is_served(make: Callable[..., Uplink]) -> None:
    uplink = make(budget=10**8, max_payload=10**8)
    manifest = Manifest(sha256=bytes(32), size=1024 * (MAX_NEED + 2), chunk_bytes=1024)
    need = uplink.manifest(part(), manifest)
    assert need is not None
    assert need.missing == tuple(range(MAX_NEED))
    for index in range(MAX_NEED):
        assert uplink.tick() == []
        uplink.chunk(part(index), bytes(1024))
    assert uplink.tick() == [("a", Need(run="run", round=1, missing=(MAX_NEED, MAX_NEED + 1)))]
    assert uplink.tick() == []


def test_a_payload_being_counted_is_neither_asked_for_nor_given_again(uplink: Uplink) -> None:
    uplink.manifest(part(), MANIFEST)
    assert len(send(uplink, PAYLOAD, 0, 1, 2)) == 1
    assert uplink.manifest(part(), MANIFEST) is None
    assert send(uplink, PAYLOAD, 0, 1, 2) == []
    uplink.release(part(2))
    assert uplink.manifest(part(), MANIFEST) == ALL
    assert len(send(uplink, PAYLOAD, 0, 1, 2)) == 1


def test_releasing_a_payload_of_an_older_round_keeps_what_came_since(uplink: Uplink) -> None:
    uplink.manifest(part(number=1), MANIFEST)
    send(uplink, PAYLOAD, 0, 1, 2, number=1)
    uplink.clear()
    uplink.manifest(part(number=2), MANIFEST)
    send(uplink, PAYLOAD, 0, 1, number=2)
    assert uplink.outstanding == 50
    uplink.release(part(number=1))
    uplink.release(part(number=2))
    assert uplink.outstanding == 25
    assert len(send(uplink, PAYLOAD, 2, number=2)) == 1


def test_chunks_that_nobody_asked_for_are_ignored(make: Callable[..., Uplink]) -> None:
    uplink = make(budget=25)
    assert send(uplink, PAYLOAD, 0) == []
    uplink.manifest(part(number=2), MANIFEST)
    assert send(uplink, PAYLOAD, 0, 1, 2, number=1) == []
    assert send(uplink, PAYLOAD, 0, 1, 2, number=2, device="b") == []
    assert uplink.manifest(part(number=2, device="b"), MANIFEST) is None
    assert send(uplink, PAYLOAD, 0, 1, 2, number=2, device="b") == []


def test_the_round_announced_last_takes_a_devices_place(uplink: Uplink) -> None:
    uplink.manifest(part(number=1), MANIFEST)
    send(uplink, PAYLOAD, 0, 1, number=1)
    uplink.manifest(part(number=2), MANIFEST)
    assert send(uplink, PAYLOAD, 2, number=1) == []
    assert len(send(uplink, PAYLOAD, 0, 1, 2, number=2)) == 1


def test_rounds_whose_updates_count_no_more_are_forgotten(make: Callable[..., Uplink], tmp_path: Path) -> None:
    uplink = make(budget=50)
    for device, number in (("a", 1), ("b", 2), ("c", 1)):
        uplink.manifest(part(number=number, device=device), MANIFEST)
    for device, number in (("a", 1), ("b", 2)):
        send(uplink, PAYLOAD, 0, number=number, device=device)
    uplink.forget_before(2)
    assert uplink.outstanding == 25
    assert {path.name.split(".")[2] for path in tmp_path.rglob("run.*")} <= {"b"}
    assert uplink.tick() == []
    assert send(uplink, PAYLOAD, 1, 2, number=1) == []
    assert len(send(uplink, PAYLOAD, 1, 2, number=2, device="b")) == 1


def test_a_payload_on_disk_is_gone_on_with_only_in_its_round(tmp_path: Path, clock: Clock) -> None:
    for number in (1, 2):
        uplink = Uplink(1000, 100, PartialFiles(tmp_path, "run"), clock)
        uplink.forget_before(number)
        need = uplink.manifest(part(number=number), MANIFEST)
        assert need is not None
        assert need.missing == (0, 1, 2)
        send(uplink, PAYLOAD, 0, number=number)
        assert {path.name.split(".")[1] for path in tmp_path.iterdir()} == {str(number)}


def test_another_payload_of_the_round_replaces_one_under_way(uplink: Uplink) -> None:
    other = PAYLOAD[::-1]
    uplink.manifest(part(), MANIFEST)
    send(uplink, PAYLOAD, 0)
    assert uplink.manifest(part(), chunking.manifest_of(other, 10)) == ALL
    (complete,) = send(uplink, other, 0, 1, 2)
    assert complete.payload == other
    assert uplink.outstanding == 25


def test_a_wrong_hash_needs_everything_again(uplink: Uplink) -> None:
    uplink.manifest(part(), MANIFEST)
    send(uplink, PAYLOAD, 0, 1)
    with pytest.raises(ProtocolError, match="SHA-256"):
        uplink.chunk(part(2), b"wrong")
    assert uplink.outstanding == 0
    assert uplink.tick() == [("a", ALL)]
    assert len(send(uplink, PAYLOAD, 0, 1, 2)) == 1


def test_in_memory_nothing_is_kept_of_a_payload_without_a_grant(clock: Clock) -> None:
    uplink = Uplink(25, 100, None, clock)
    uplink.manifest(part(), MANIFEST)
    uplink.manifest(part(device="b"), MANIFEST)
    send(uplink, PAYLOAD, 0, 1)
    with pytest.raises(ProtocolError, match="SHA-256"):
        uplink.chunk(part(2), b"wrong")
    assert uplink.tick() == [("b", ALL)]
    send(uplink, PAYLOAD, 0)
    send(uplink, PAYLOAD, 0, device="b")
    clock.now += IDLE_SECONDS
    assert uplink.tick() == [("a", ALL)]
    send(uplink, PAYLOAD, 1, device="b")
    clock.now += IDLE_SECONDS
    assert uplink.tick() == [("b", ALL)]


@pytest.mark.parametrize(("index", "content"), [(3, b"x"), (0, b"short"), (2, b"too long")])
def test_chunks_that_the_manifest_does_not_allow(uplink: Uplink, index: int, content: bytes) -> None:
    uplink.manifest(part(), MANIFEST)
    with pytest.raises(ProtocolError, match=f"chunk {index}"):
        uplink.chunk(part(index), content)
    assert uplink.manifest(part(), MANIFEST) == ALL


def test_a_payload_over_the_limit_is_refused_when_announced(uplink: Uplink) -> None:
    with pytest.raises(ProtocolError, match="101 bytes, expected at most 100"):
        uplink.manifest(part(), chunking.manifest_of(bytes(101), 10))
    with pytest.raises(ProtocolError, match="expected at most 100"):
        uplink.manifest(part(), Manifest(sha256=bytes(32), size=2**63, chunk_bytes=2**62))
    assert uplink.outstanding == 0


def test_devices_do_not_disturb_each_other(uplink: Uplink) -> None:
    for device in "ab":
        uplink.manifest(part(device=device), MANIFEST)
    assert send(uplink, PAYLOAD, 0, 1, device="a") == []
    assert len(send(uplink, PAYLOAD, 0, 1, 2, device="b")) == 1
    assert len(send(uplink, PAYLOAD, 2, device="a")) == 1


def test_clear_forgets_all(uplink: Uplink, tmp_path: Path) -> None:
    uplink.manifest(part(), MANIFEST)
    send(uplink, PAYLOAD, 0)
    uplink.clear()
    assert send(uplink, PAYLOAD, 0, 1, 2) == []
    assert uplink.outstanding == 0
    assert list(tmp_path.rglob("run.*")) == []


def test_who_does_not_fit_waits_for_a_release_first_come_first_served(make: Callable[..., Uplink]) -> None:
    uplink = make(budget=50)
    answers = [uplink.manifest(part(device=device), MANIFEST) for device in "abcd"]
    assert answers == [ALL, ALL, None, None]
    assert uplink.tick() == []
    assert len(send(uplink, PAYLOAD, 0, 1, 2, device="b")) == 1
    assert uplink.tick() == []
    uplink.release(part(device="b"))
    assert uplink.manifest(part(device="d"), MANIFEST) is None
    assert uplink.tick() == [("c", ALL)]
    assert uplink.outstanding == 50


def test_a_payload_let_go_of_makes_room_once_and_is_held_until_its_release(make: Callable[..., Uplink]) -> None:
    uplink = make(budget=25)
    assert uplink.manifest(part(), MANIFEST) == ALL
    assert uplink.manifest(part(device="b"), MANIFEST) is None
    send(uplink, PAYLOAD, 0, 1, 2)
    uplink.let_go(part(2))
    assert uplink.tick() == [("b", ALL)]
    assert uplink.manifest(part(), MANIFEST) is None
    uplink.let_go(part())
    uplink.release(part())
    uplink.let_go(part())
    assert uplink.outstanding == 25
    assert uplink.manifest(part(), MANIFEST) is None
    assert len(send(uplink, PAYLOAD, 0, 1, 2, device="b")) == 1
    uplink.release(part(device="b"))
    assert uplink.tick() == [("a", ALL)]


def test_a_payload_larger_than_the_budget_goes_alone(make: Callable[..., Uplink]) -> None:
    uplink = make(budget=10)
    assert uplink.manifest(part(device="a"), MANIFEST) == ALL
    assert uplink.manifest(part(device="b"), MANIFEST) is None
    send(uplink, PAYLOAD, 0, 1, 2)
    uplink.release(part())
    assert uplink.tick() == [("b", ALL)]


def test_a_grant_unused_while_others_wait_goes_to_the_next_and_comes_again(
    make: Callable[..., Uplink], clock: Clock
) -> None:
    uplink = make(budget=25)
    uplink.manifest(part(device="a"), MANIFEST)
    uplink.manifest(part(device="b"), MANIFEST)
    clock.now += IDLE_SECONDS - 1
    assert uplink.tick() == []
    clock.now += 1
    assert uplink.tick() == [("b", ALL)]
    assert len(send(uplink, PAYLOAD, 0, 1, 2, device="b")) == 1
    uplink.release(part(device="b"))
    assert uplink.tick() == [("a", ALL)]


def test_a_grant_is_kept_while_nobody_waits(uplink: Uplink, clock: Clock) -> None:
    uplink.manifest(part(), MANIFEST)
    clock.now += 10 * IDLE_SECONDS
    assert uplink.tick() == []
    assert len(send(uplink, PAYLOAD, 0, 1, 2)) == 1


def test_a_short_payload_that_comes_late_is_taken_where_the_others_stay_in_the_budget(
    make: Callable[..., Uplink], clock: Clock
) -> None:
    """Else slow devices that share a link would lose their turn each time they had sent nearly all."""
    uplink = make(budget=10)
    short = {device: (device * 9).encode() for device in "abc"}
    for device, payload in short.items():
        uplink.manifest(part(device=device), chunking.manifest_of(payload, 10))
        clock.now += IDLE_SECONDS
        uplink.tick()
    assert len(send(uplink, short["a"], 0, device="a")) == 1
    assert uplink.outstanding == 18
    assert send(uplink, short["b"], 0, device="b") == []
    assert len(send(uplink, short["c"], 0, device="c")) == 1


def test_a_long_payload_goes_on_where_it_lost_its_turn(tmp_path: Path, clock: Clock) -> None:
    uplink = Uplink(25, 100, PartialFiles(tmp_path, "run"), clock)
    uplink.manifest(part(), MANIFEST)
    uplink.manifest(part(device="b"), MANIFEST)
    send(uplink, PAYLOAD, 0)
    clock.now += IDLE_SECONDS
    assert uplink.tick() == [("b", ALL)]
    send(uplink, PAYLOAD, 2)
    send(uplink, PAYLOAD, 0, 1, 2, device="b")
    uplink.release(part(device="b"))
    assert uplink.tick() == [("a", Need(run="run", round=1, missing=(1,)))]
    assert send(uplink, PAYLOAD, 1) == [Complete(part(1), MANIFEST.sha256, PAYLOAD)]


def test_a_long_payload_goes_on_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    for number, asked in enumerate(((0, 1, 2), (1, 2), (2,))):
        uplink = Uplink(1000, 100, PartialFiles(tmp_path, "run"), clock)
        assert uplink.manifest(part(), MANIFEST) == Need(run="run", round=1, missing=asked)
        complete = send(uplink, PAYLOAD, number)
    assert complete == [Complete(part(2), MANIFEST.sha256, PAYLOAD)]
    assert list(tmp_path.iterdir())
    uplink.release(part())
    assert list(tmp_path.iterdir()) == []


def test_a_payload_that_was_whole_but_not_counted_lacks_one_chunk_after_a_restart(tmp_path: Path, clock: Clock) -> None:
    uplink = Uplink(1000, 100, PartialFiles(tmp_path, "run"), clock)
    uplink.manifest(part(), MANIFEST)
    send(uplink, PAYLOAD, 2, 1, 0)
    uplink = Uplink(1000, 100, PartialFiles(tmp_path, "run"), clock)
    assert uplink.manifest(part(), MANIFEST) == Need(run="run", round=1, missing=(2,))
    assert len(send(uplink, PAYLOAD, 2)) == 1


def test_a_payload_of_one_chunk_never_touches_the_disk(tmp_path: Path, clock: Clock) -> None:
    uplink = Uplink(1000, 100, PartialFiles(tmp_path / "partial", "run"), clock)
    (tmp_path / "partial").rmdir()
    uplink.manifest(part(), chunking.manifest_of(b"short", 10))
    assert len(send(uplink, b"short", 0)) == 1


@pytest.mark.parametrize("precision", ["float32", "float16", "int8", "ternary"])
@pytest.mark.parametrize("keep_values", [0.3, 1.0])
def test_the_largest_honest_update_fits(layout: object, weights: dict, precision: str, keep_values: float) -> None:
    codec = tensor_codec.Codec(precision, keep_values)
    whole = full_sub_model(layout)
    update = Update(
        run="r" * 64,
        round=999_999_999,
        model_version=999_999_999,
        examples=10**9,
        trained=10**9,
        scored=10**9,
        kept=to_bitmaps(layout, whole),
        precision=precision,
        top_k=keep_values,
        values=tensor_codec.encode(weights, sub_shapes(layout, whole.widths), codec),
    )
    context = Context("update", "f" * 64, update.run, update.round, "d" * 64)
    sealed = seal(messages.encode(update), context, (new_identity(), new_identity()), new_identity().public)
    limit = max_update_size(layout, codec)
    assert len(sealed) <= limit < len(update.values) + 2400
