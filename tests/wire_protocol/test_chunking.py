from __future__ import annotations

from hashlib import sha256

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire_protocol.chunking import DEFAULT_CHUNK_BYTES, Assembly, ChunkSet, chunk, manifest_of
from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.messages import MAX_CHUNKS, Manifest

PAYLOAD = bytes(range(10))
MANIFEST = manifest_of(PAYLOAD, 4)


def test_a_manifest_names_hash_size_and_chunks() -> None:
    assert Manifest(sha256=sha256(PAYLOAD).digest(), size=10, chunk_bytes=4) == MANIFEST
    assert [chunk(PAYLOAD, MANIFEST, index) for index in range(MANIFEST.chunk_count)] == [
        bytes([0, 1, 2, 3]),
        bytes([4, 5, 6, 7]),
        bytes([8, 9]),
    ]
    assert manifest_of(PAYLOAD).chunk_bytes == DEFAULT_CHUNK_BYTES == 126_976


@given(
    payload=st.binary(min_size=1, max_size=200),
    chunk_bytes=st.integers(1, 250),
    randomness=st.randoms(use_true_random=False),
)
@settings(max_examples=150, deadline=None)
def test_any_order_with_duplicates_gives_the_payload(payload: bytes, chunk_bytes: int, randomness: object) -> None:
    manifest = manifest_of(payload, chunk_bytes)
    order = list(range(manifest.chunk_count)) * 2
    randomness.shuffle(order)  # type: ignore[attr-defined]
    assembly = Assembly(manifest, len(payload))
    seen: set[int] = set()
    for index in order:
        assert assembly.missing == tuple(sorted(set(range(manifest.chunk_count)) - seen))
        assembly.add(index, chunk(payload, manifest, index))
        seen.add(index)
    assert assembly.missing == ()
    assert assembly.payload() == payload


def test_what_is_missing_is_named() -> None:
    assembly = Assembly(MANIFEST, 10)
    assembly.add(1, chunk(PAYLOAD, MANIFEST, 1))
    assert assembly.missing == (0, 2)
    with pytest.raises(ProtocolError, match=r"lacks 2 of its chunks"):
        assembly.payload()


def test_a_wrong_hash_empties_the_assembly() -> None:
    assembly = Assembly(MANIFEST, 10)
    for index, content in enumerate([b"0123", b"4567", b"89"]):
        assembly.add(index, content)
    with pytest.raises(ProtocolError, match="announced SHA-256"):
        assembly.payload()
    assert assembly.missing == (0, 1, 2)
    for index in range(3):
        assembly.add(index, chunk(PAYLOAD, MANIFEST, index))
    assert assembly.payload() == PAYLOAD


@pytest.mark.parametrize(
    ("index", "content"), [(-1, b"0123"), (3, b"0123"), (0, b"012"), (0, b"01234"), (0, b""), (2, b"0123"), (2, b"0")]
)
def test_a_chunk_the_manifest_does_not_have_is_refused(index: int, content: bytes) -> None:
    assembly = Assembly(MANIFEST, 10)
    with pytest.raises(ProtocolError, match=f"chunk {index} "):
        assembly.add(index, content)
    assert assembly.missing == (0, 1, 2)


def test_a_payload_larger_than_allowed_is_refused_before_any_chunk() -> None:
    assert Assembly(MANIFEST, 10).manifest == MANIFEST
    with pytest.raises(ProtocolError, match="10 bytes, expected at most 9"):
        Assembly(MANIFEST, 9)


def test_an_empty_payload_cannot_be_announced() -> None:
    with pytest.raises(InvalidValueError, match="size must be at least 1"):
        manifest_of(b"")


def test_the_number_of_chunks_is_bounded() -> None:
    assert Manifest(sha256=bytes(32), size=1024 * MAX_CHUNKS, chunk_bytes=1024).chunk_count == MAX_CHUNKS
    with pytest.raises(InvalidValueError, match="chunks must be at most 65536 of 1024 bytes, got 65537"):
        Manifest(sha256=bytes(32), size=1024 * MAX_CHUNKS + 1, chunk_bytes=1024)


def test_small_chunks_are_few_as_each_costs_memory() -> None:
    assert Manifest(sha256=bytes(32), size=64, chunk_bytes=1).chunk_count == 64
    with pytest.raises(InvalidValueError, match="chunks must be at most 64 of 1023 bytes, got 65"):
        Manifest(sha256=bytes(32), size=64 * 1023 + 1, chunk_bytes=1023)


@given(st.integers(1, 40), st.lists(st.tuples(st.booleans(), st.integers(0, 39)), max_size=80), st.integers(0, 50))
@settings(max_examples=150, deadline=None)
def test_a_chunk_set_is_a_set(count: int, changes: list[tuple[bool, int]], limit: int) -> None:
    chunks, model = ChunkSet(count), set[int]()
    for arrives, number in changes:
        index = number % count
        (chunks.add if arrives else chunks.discard)(index)
        (model.add if arrives else model.discard)(index)
    lacking = tuple(index for index in range(count) if index not in model)
    assert [index for index in range(-1, count + 2) if index in chunks] == sorted(model)
    assert (len(chunks), chunks.full) == (len(model), not lacking)
    assert (chunks.missing(), chunks.missing(limit)) == (lacking, lacking[:limit])


def test_of_a_chunk_that_comes_again_the_first_copy_stands() -> None:
    assembly = Assembly(MANIFEST, 10)
    assert assembly.add(0, PAYLOAD[:4])
    assert not assembly.add(0, b"fake")
    assert assembly.add(1, PAYLOAD[4:8])
    assert assembly.add(2, PAYLOAD[8:])
    assert assembly.payload() == PAYLOAD
