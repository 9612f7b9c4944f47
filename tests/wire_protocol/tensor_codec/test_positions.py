from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire_protocol.errors import ProtocolError
from wire_protocol.tensor_codec.positions import largest_positions, pack_positions, top_mask, unpack_positions


def test_the_largest_magnitudes_are_taken_zeros_never_and_the_first_of_equals() -> None:
    values = np.array([1, -3, 0, 2, -2, 2, 0], dtype=np.float32)
    assert np.flatnonzero(top_mask(values, 1)).tolist() == [1]
    assert np.flatnonzero(top_mask(values, 3)).tolist() == [1, 3, 4]
    assert np.flatnonzero(top_mask(values, 6)).tolist() == [0, 1, 3, 4, 5]
    assert not top_mask(np.zeros(5, np.float32), 3).any()
    assert top_mask(np.zeros(0, np.float32), 0).shape == (0,)


@given(mask=hnp.arrays(np.bool_, st.integers(0, 3000), elements=st.booleans()), rest=st.binary(max_size=4))
def test_masks_come_back_and_so_does_what_follows(mask: np.ndarray, rest: bytes) -> None:
    packed = pack_positions(mask)
    assert len(packed) <= largest_positions(int(mask.sum()), len(mask))
    found, after = unpack_positions([memoryview(packed + rest)], int(mask.sum()), len(mask))
    np.testing.assert_array_equal(found[0], np.flatnonzero(mask))
    assert [bytes(one) for one in after] == [rest]


def test_positions_of_several_are_those_of_each() -> None:
    """Gaps, long ones, bitmaps and none at all, mixed."""
    generator, contents, masks = np.random.default_rng(0), [], []
    for share in (0.5, 0.01, 0, 0.001, 0.002, 0.5, 0.6, 0, 1):
        masks.append(generator.random(2000) < share)
        contents.append(memoryview(pack_positions(masks[-1]) + bytes([len(masks)])))
    assert [content[0] for content in contents].count(1) > 1
    for times in (1, 2):
        found, rests = unpack_positions(contents * times, 2000, 2000)
        for places, mask in zip(found, masks * times, strict=True):
            np.testing.assert_array_equal(places, np.flatnonzero(mask))
        assert [rest[0] for rest in rests] == list(range(1, len(masks) + 1)) * times


def test_a_position_past_the_end_of_one_is_not_taken_for_one_of_the_next() -> None:
    inside, past = head(0, 1, b"\x09"), head(0, 1, b"\x0a")
    with pytest.raises(ProtocolError, match="past the 10 values"):
        unpack_positions([memoryview(content) for content in (past, inside, head(0, 1, b"\0"))], 4, 10)


@given(places=st.sets(st.integers(0, 99_999), max_size=40))
def test_far_apart_positions_come_back(places: set[int]) -> None:
    mask = np.zeros(100_000, dtype=np.bool_)
    mask[sorted(places)] = True
    packed = pack_positions(mask)
    assert len(packed) <= largest_positions(len(places), len(mask))
    np.testing.assert_array_equal(unpack_positions([memoryview(packed)], len(places), len(mask))[0][0], sorted(places))


def test_gaps_worked_out_by_hand() -> None:
    mask = np.zeros(20_000, dtype=np.bool_)
    mask[[0, 3, 258, 514]] = True
    body = bytes([0, 2, 254, 255]) + struct.pack("<I", 255)
    assert pack_positions(mask) == struct.pack("<BII", 0, 4, 9) + b"\0" + body


def test_a_bitmap_is_taken_where_it_is_smaller() -> None:
    packed = pack_positions(np.random.default_rng(0).random(800) < 0.5)
    assert packed[0] == 1
    assert len(packed) <= 10 + 100


def head(kind: int, count: int, body: bytes) -> bytes:
    return struct.pack("<BII", kind, count, len(body) + 1) + b"\0" + body


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "positions are missing"),
        (struct.pack("<BII", 0, 1, 99), "expected at most"),
        (head(0, 5, bytes(5)), "expected at most 4"),
        (head(2, 1, b"\0"), "kind of positions"),
        (head(0, 2, b"\0"), "2 gaps in 1 bytes"),
        (head(0, 1, b"\x0a"), "past the 10 values"),
        (head(0, 1, b"\xff"), "1 gaps take 5 bytes, got 1"),
        (head(0, 1, b"\xff" + struct.pack("<I", 2**32 - 1)), "past the 10 values"),
        (head(0, 1, b"\xff" + struct.pack("<I", 254)), "long gap must be at least 255"),
        (head(1, 1, b"\0"), "takes 2 bytes, got 1"),
        (head(1, 1, b"\0\0"), "must set 1 of its 10 bits"),
        (head(1, 1, b"\0\x20"), "must set 1 of its 10 bits"),
    ],
)
def test_what_the_encoder_cannot_give_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        unpack_positions([memoryview(content)], 4, 10)
