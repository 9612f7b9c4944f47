"""Levels against values worked out by hand, and the promise that rounding at random has no bias."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.tensor_codec import levels

LARGEST = float(np.finfo(np.float32).max)
STEPS = {"int8": 127, "int4": 7, "ternary": 1}


def half(value: float) -> bytes:
    """The upper half of a float32 that has nothing in the lower."""
    content = struct.pack("<f", value)
    assert content[:2] == b"\0\0"
    return content[2:]


def unpack(body: bytes, counts: tuple[int, ...], kind: str) -> np.ndarray:
    return levels.unpack(np.frombuffer(body, dtype=np.uint8)[None], counts, kind)[0]


def there_and_back(values: np.ndarray, counts: tuple[int, ...], kind: str, seed: int | None = None) -> np.ndarray:
    generator = None if seed is None else np.random.default_rng(seed)
    body = levels.pack(values, counts, kind, generator)
    assert len(body) == levels.packed_bytes(len(values), len(levels.block_lengths(counts)), kind)
    return unpack(body, counts, kind)


@pytest.mark.parametrize(
    ("kind", "values", "body"),
    [
        ("int8", [127.0, -127.0, 0.4, -0.6], half(1.0) + bytes([127, 129, 0, 255])),
        ("int4", [7.0, -3.0, 0.4], half(1.0) + bytes([0xF5, 0x88])),
        ("ternary", [2.0, -2.0, 0.0, 1.5, -0.9, 2.0], half(2.0) + bytes([2 * 81 + 0 + 9 + 2 * 3 + 1, 2 * 81 + 40])),
        ("signs", [1.0, -3.0, 5.0], half(3.0) + bytes([0b10100000])),
    ],
)
def test_bytes_worked_out_by_hand(kind: str, values: list[float], body: bytes) -> None:
    assert levels.pack(np.array(values, np.float32), (len(values),), kind, None) == body


def test_blocks_are_1024_values_of_one_tensor() -> None:
    values = np.concatenate([np.full(1024, 7.0), [0.5], [7e-6] * 3]).astype(np.float32)
    decoded = there_and_back(values, (1025, 3), "int4")
    np.testing.assert_allclose(decoded, values, rtol=2.0**-7)


@given(
    values=hnp.arrays(np.float32, st.integers(0, 40), elements=st.floats(-(2.0**100), 2.0**100, width=32)),
    split=st.integers(0, 40),
    kind=st.sampled_from(sorted(STEPS)),
    seed=st.none() | st.integers(0, 3),
)
def test_errors_are_below_a_step_and_half_of_it_where_nearest(values, split, kind, seed) -> None:
    counts = (min(split, len(values)), len(values) - min(split, len(values)))
    decoded = there_and_back(values, counts, kind, seed)
    for part, found in zip(np.split(values, [counts[0]]), np.split(decoded, [counts[0]]), strict=True):
        step = np.abs(part).max(initial=0.0) / np.float64(STEPS[kind]) * (1 + 2.0**-7) + 2.0**-133
        allowed = step * (1 if seed is not None else 0.5) * (1 + 2.0**-20)
        assert (np.abs(found.astype(np.float64) - part) <= allowed).all()


@given(
    values=hnp.arrays(np.float32, st.integers(1, 6), elements=st.floats(-1, 1, width=32)),
    exponent=st.sampled_from([-140, -126, -30, 0, 60, 120]),
    kind=st.sampled_from(sorted(STEPS)),
)
def test_rounding_at_random_has_no_bias(values: np.ndarray, exponent: int, kind: str) -> None:
    """The mean of n draws lies within 6 standard errors; a draw's deviation is at most half a step."""
    values = np.ldexp(values, exponent).astype(np.float32)
    draws = 2000
    blocks = np.repeat(values[None], draws, axis=0).ravel()
    decoded = there_and_back(blocks, (len(values),) * draws, kind, seed=1).astype(np.float64).reshape(draws, -1)
    step = np.abs(values).max() / np.float64(STEPS[kind]) * (1 + 2.0**-7) + 2.0**-133
    assert (np.abs(decoded.mean(axis=0) - values) <= 6 * step / 2 / np.sqrt(draws)).all()


def test_rounding_to_nearest_is_biased_so_that_the_test_above_means_something() -> None:
    values = np.array([1.0, 0.3], dtype=np.float32)
    assert there_and_back(values, (2,), "ternary")[1] == 0
    drawn = [there_and_back(values, (2,), "ternary", seed)[1] for seed in range(200)]
    assert set(drawn) == {0.0, 1.0}


@given(values=hnp.arrays(np.float32, st.integers(1, 30), elements=st.floats(-1, 1, width=32)))
def test_signs_keep_signs_and_the_mean_magnitude(values: np.ndarray) -> None:
    decoded = there_and_back(values, (len(values),), "signs")
    np.testing.assert_array_equal(decoded >= 0 if values.any() else True, values >= 0 if values.any() else True)
    np.testing.assert_allclose(np.abs(decoded), np.abs(values).mean(), rtol=2.0**-7, atol=2.0**-133)


@pytest.mark.parametrize("kind", STEPS)
@pytest.mark.parametrize("magnitude", [2.0**-149, 2.0**-126, 2.0**126])
def test_the_ends_of_the_range_survive(kind: str, magnitude: float) -> None:
    values = np.array([magnitude, -magnitude], dtype=np.float32)
    decoded = there_and_back(values, (2,), kind, seed=0)
    assert np.isfinite(decoded).all()
    assert (np.abs(decoded - values) <= magnitude * 2.0**-7 + STEPS[kind] * 2.0**-133).all()


def test_magnitudes_no_scale_reaches_are_refused() -> None:
    with pytest.raises(InvalidValueError, match=r"must be below 2\^127"):
        levels.pack(np.array([LARGEST], np.float32), (1,), "int8", None)


@pytest.mark.parametrize(
    ("body", "count", "kind", "reason"),
    [
        (bytes.fromhex("807f") + b"\1", 1, "int8", "scale must be finite"),
        (bytes.fromhex("0080") + b"\1", 1, "int8", "scale must be finite and not negative"),
        (half(2.0**122) + b"\1", 1, "int8", "scale must be finite and not negative, and so 127 times it"),
        (half(2.0**126) + b"\x90", 1, "int4", "and so 7 times it"),
        (half(1.0) + b"\x80", 1, "int8", "of int8 must be from -127 to 127"),
        (half(1.0) + b"\x08", 1, "int4", "of int4 must be from -7 to 7"),
        (half(1.0) + b"\x80", 2, "int4", "of int4 must be from -7 to 7"),
        (half(1.0) + bytes([243]), 5, "ternary", "of ternary must be from -1 to 1"),
        (half(1.0) + b"\x89", 1, "int4", "past the last value"),
        (half(1.0) + bytes([121 + 1]), 1, "ternary", "past the last value"),
        (half(1.0) + b"\xc0", 1, "signs", "past the last value"),
    ],
)
def test_what_the_encoder_cannot_give_is_refused(body: bytes, count: int, kind: str, reason: str) -> None:
    with pytest.raises(ProtocolError, match=reason):
        unpack(body, (count,), kind)


@pytest.mark.parametrize("kind", STEPS)
def test_the_largest_legal_scale_times_the_largest_level_is_finite(kind: str) -> None:
    largest = np.array([levels._LARGEST_SCALE[kind], levels._LARGEST_SCALE[kind] + 1], dtype=np.uint32) << 16
    with np.errstate(over="ignore"):
        products = largest.view(np.float32) * np.float32(STEPS[kind])
    assert np.isfinite(products).tolist() == [True, False]
