import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.uplink import MAX_NEED, Complete, Uplink, max_update_size
from wire_protocol import chunking, messages, tensor_codec
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import Manifest, Need, Update
from wire_protocol.sub_model import full_sub_model, sub_shapes, to_bitmaps
from wire_protocol.topics import Part

PAYLOAD = bytes(range(25))
MANIFEST = chunking.manifest_of(PAYLOAD, 10)


def part(chunk: int | None = None, number: int = 1, device: str = "a") -> Part:
    return Part(device, "run", number, chunk)


def send(uplink: Uplink, payload: bytes, *indices: int, number: int = 1, device: str = "a") -> list[Complete]:
    manifest = chunking.manifest_of(payload, 10)
    answers = [uplink.chunk(part(i, number, device), chunking.chunk(payload, manifest, i)) for i in indices]
    return [answer for answer in answers if answer is not None]


@pytest.fixture
def uplink() -> Uplink:
    return Uplink(max_payload=100)


@given(st.permutations([0, 1, 2, 0, 1]))
def test_chunks_in_any_order_and_repeated_complete_once(order: list[int]) -> None:
    uplink = Uplink(max_payload=100)
    assert uplink.manifest(part(), MANIFEST) is None
    assert send(uplink, PAYLOAD, *order) == [Complete(part(order[last_new(order)]), MANIFEST.sha256, PAYLOAD)]


def last_new(order: list[int]) -> int:
    return max(order.index(index) for index in set(order))


def test_only_a_repeated_manifest_is_answered_with_what_is_missing(uplink: Uplink) -> None:
    assert uplink.manifest(part(), MANIFEST) is None
    assert uplink.manifest(part(), MANIFEST) == Need(run="run", round=1, missing=(0, 1, 2))
    send(uplink, PAYLOAD, 1)
    assert uplink.manifest(part(), MANIFEST) == Need(run="run", round=1, missing=(0, 2))


def test_a_need_is_bounded() -> None:
    uplink = Uplink(max_payload=10**6)
    manifest = Manifest(sha256=bytes(32), size=60_000, chunk_bytes=1)
    uplink.manifest(part(), manifest)
    need = uplink.manifest(part(), manifest)
    assert need is not None
    assert need.missing == tuple(range(MAX_NEED))


def test_a_payload_being_counted_is_neither_asked_for_nor_given_again(uplink: Uplink) -> None:
    uplink.manifest(part(), MANIFEST)
    assert len(send(uplink, PAYLOAD, 0, 1, 2)) == 1
    assert uplink.manifest(part(), MANIFEST) is None
    assert send(uplink, PAYLOAD, 0, 1, 2) == []
    uplink.release(part())
    uplink.manifest(part(), MANIFEST)
    assert len(send(uplink, PAYLOAD, 0, 1, 2)) == 1


def test_releasing_a_payload_of_an_older_round_keeps_what_came_since(uplink: Uplink) -> None:
    uplink.manifest(part(number=1), MANIFEST)
    send(uplink, PAYLOAD, 0, 1, 2, number=1)
    uplink.clear()
    uplink.manifest(part(number=2), MANIFEST)
    send(uplink, PAYLOAD, 0, 1, number=2)
    uplink.release(part(number=1))
    uplink.release(part(number=2))
    assert len(send(uplink, PAYLOAD, 2, number=2)) == 1


def test_stray_chunks_are_ignored(uplink: Uplink) -> None:
    assert send(uplink, PAYLOAD, 0) == []
    uplink.manifest(part(number=2), MANIFEST)
    assert send(uplink, PAYLOAD, 0, 1, 2, number=1) == []
    assert send(uplink, PAYLOAD, 0, 1, 2, number=2, device="b") == []


def test_the_newest_round_wins(uplink: Uplink) -> None:
    uplink.manifest(part(number=1), MANIFEST)
    send(uplink, PAYLOAD, 0, 1, number=1)
    uplink.manifest(part(number=2), MANIFEST)
    assert uplink.manifest(part(number=1), MANIFEST) is None
    assert send(uplink, PAYLOAD, 2, number=1) == []
    assert len(send(uplink, PAYLOAD, 0, 1, 2, number=2)) == 1


def test_another_payload_of_the_round_replaces_one_under_way(uplink: Uplink) -> None:
    other = PAYLOAD[::-1]
    uplink.manifest(part(), MANIFEST)
    send(uplink, PAYLOAD, 0)
    uplink.manifest(part(), chunking.manifest_of(other, 10))
    (complete,) = send(uplink, other, 0, 1, 2)
    assert complete.payload == other


def test_a_wrong_hash_needs_everything_again(uplink: Uplink) -> None:
    uplink.manifest(part(), MANIFEST)
    send(uplink, PAYLOAD, 0, 1)
    with pytest.raises(ProtocolError, match="SHA-256"):
        uplink.chunk(part(2), b"wrong")
    assert uplink.manifest(part(), MANIFEST) == Need(run="run", round=1, missing=(0, 1, 2))
    assert len(send(uplink, PAYLOAD, 0, 1, 2)) == 1


@pytest.mark.parametrize(("index", "content"), [(3, b"x"), (0, b"short"), (2, b"too long")])
def test_chunks_that_the_manifest_does_not_allow(uplink: Uplink, index: int, content: bytes) -> None:
    uplink.manifest(part(), MANIFEST)
    with pytest.raises(ProtocolError, match=f"chunk {index}"):
        uplink.chunk(part(index), content)


def test_a_payload_over_the_limit_is_refused_when_announced(uplink: Uplink) -> None:
    with pytest.raises(ProtocolError, match="101 bytes, expected at most 100"):
        uplink.manifest(part(), chunking.manifest_of(bytes(101), 10))


def test_devices_do_not_disturb_each_other(uplink: Uplink) -> None:
    for device in "ab":
        uplink.manifest(part(device=device), MANIFEST)
    assert send(uplink, PAYLOAD, 0, 1, device="a") == []
    assert len(send(uplink, PAYLOAD, 0, 1, 2, device="b")) == 1
    assert len(send(uplink, PAYLOAD, 2, device="a")) == 1


def test_clear_forgets_all(uplink: Uplink) -> None:
    uplink.manifest(part(), MANIFEST)
    uplink.clear()
    assert send(uplink, PAYLOAD, 0, 1, 2) == []


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
        loss=1.0,
        kept=to_bitmaps(layout, whole),
        precision=precision,
        top_k=keep_values,
        values=tensor_codec.encode(weights, sub_shapes(layout, whole.widths), codec),
    )
    limit = max_update_size(layout, codec)
    assert len(messages.encode(update)) <= limit < len(update.values) + 2000
