from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from wire_protocol.errors import ProtocolError
from wire_protocol.tensor_codec.compression import open_section, section


@given(body=st.binary(max_size=300) | st.integers(0, 5000).map(bytes), level=st.sampled_from([None, 1, 12]))
def test_sections_open_to_their_body_and_never_grow_by_more_than_a_byte(body: bytes, level: int | None) -> None:
    content = section([body], level)
    assert len(content) <= len(body) + 1
    assert bytes(open_section(memoryview(content), len(body))) == body
    if level is None:
        assert content == b"\0" + body


@given(parts=st.lists(st.binary(max_size=300), min_size=1, max_size=3), level=st.sampled_from([None, 1, 12]))
def test_parts_come_back_end_to_end(parts: list[bytes], level: int | None) -> None:
    body = b"".join(parts)
    assert bytes(open_section(memoryview(section(parts, level)), len(body))) == body


def test_noise_does_not_keep_what_comes_after_it_from_being_compressed() -> None:
    noise = np.random.default_rng(0).bytes(5000)
    few = np.random.default_rng(1).integers(0, 16, 5000, dtype=np.uint8).tobytes()
    assert len(section([noise, few], 1)) < 5000 + 2600 < len(section([noise + few], 1))


def test_zeros_are_compressed() -> None:
    assert len(section([bytes(10_000)], 1)) < 40


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "section is missing"),
        (b"\0" + bytes(101), "has 101 bytes, expected at most 100"),
        (b"\2", "method must be 0 or 1, got 2"),
        (b"\1", "not a zstd frame"),
        (b"\1" + bytes(30), "not a zstd frame"),
        (section([bytes(101)], 1), "frame of 101 bytes, at most 100"),
        (section([bytes(100)], 1)[:-1], "not a zstd frame"),
        (section([bytes(100)], 1) + b"\0", "not a zstd frame"),
        (b"\1" + zstandard.ZstdCompressor(write_content_size=False).compress(bytes(100)), "bytes, at most 100"),
        (b"\1" + zstandard.ZstdCompressor().compress(b""), "empty zstd frame"),
    ],
)
def test_what_is_no_section_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        open_section(memoryview(content), 100)


@pytest.mark.parametrize("states_its_size", [True, False])
def test_a_bomb_is_refused_before_memory_is_taken(states_its_size: bool) -> None:
    compressor = zstandard.ZstdCompressor(level=19, write_content_size=states_its_size)
    bomb = memoryview(b"\1" + compressor.compress(bytes(200_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="at most 1000"):
            open_section(bomb, 1000)
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_frame_that_lies_about_its_size_is_refused() -> None:
    frame = bytearray(zstandard.ZstdCompressor(write_checksum=False).compress(bytes(200)))
    assert frame[5] == 200
    frame[5] = 100
    with pytest.raises(ProtocolError, match="not a zstd frame"):
        open_section(memoryview(b"\1" + bytes(frame)), 100)
