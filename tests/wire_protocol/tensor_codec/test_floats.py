from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire_protocol import tensor_codec
from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.tensor_codec import Codec

LARGEST = float(np.finfo(np.float32).max)
SMALLEST_NORMAL = float(np.finfo(np.float32).tiny)
SMALLEST = float(np.finfo(np.float32).smallest_subnormal)
PRECISIONS = ("float32", "float16", "int8", "int4", "ternary")
SHAPES: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (4,), "c": ()}

finite_arrays = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=6),
    elements=st.floats(width=32, allow_nan=False, allow_infinity=False),
)


def round_trip(array: np.ndarray, precision: str) -> np.ndarray:
    shapes = {"x": array.shape}
    payload = tensor_codec.encode({"x": array}, shapes, Codec(precision))
    assert len(payload) <= tensor_codec.largest_size(shapes, Codec(precision))
    return tensor_codec.decode(payload, shapes, Codec(precision))["x"]


@given(array=finite_arrays)
@settings(max_examples=200, deadline=None)
def test_float32_is_exact_to_the_bit(array: np.ndarray) -> None:
    decoded = round_trip(array, "float32")
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded.view(np.uint32), array.view(np.uint32))


def require_documented_error(array: np.ndarray) -> None:
    decoded = round_trip(array, "float16")
    assert decoded.dtype == np.float32
    exact, error = array.astype(np.float64), np.abs(decoded.astype(np.float64) - array.astype(np.float64))
    largest = np.abs(exact).max(initial=0.0)
    small = 2.0**-39 * largest
    if largest >= 2.0**-112:
        covered = np.abs(exact) >= 2.0**-28 * largest
        assert (error[covered] <= 2.0**-11 * np.abs(exact[covered])).all()
        assert (error[~covered] <= small).all()
    else:
        assert (error <= np.maximum(2.0**-11 * np.abs(exact), 2.0**-151)).all()
    np.testing.assert_array_equal(np.signbit(decoded), np.signbit(array))


@given(array=finite_arrays)
@settings(max_examples=300, deadline=None)
def test_float16_keeps_the_documented_relative_error(array: np.ndarray) -> None:
    require_documented_error(array)


@given(array=hnp.arrays(np.float32, 7, elements=st.floats(-1, 1, width=32)), exponent=st.integers(-149, 126))
@settings(max_examples=300, deadline=None)
def test_float16_keeps_its_error_at_every_magnitude(array: np.ndarray, exponent: int) -> None:
    require_documented_error(np.ldexp(array, exponent).astype(np.float32))


@pytest.mark.parametrize(
    "values",
    [
        [LARGEST, -LARGEST, 1.0],
        [SMALLEST_NORMAL, -SMALLEST_NORMAL],
        [SMALLEST, -SMALLEST, 3 * SMALLEST],
        [0.0, -0.0],
        [2.0**15, 2.0**-14, 2.0**-13],
        [65504.0, 65520.0, 65535.0],
        [1.0, 2.0**-28, 2.0**-60],
    ],
)
def test_float16_at_the_edges(values: list[float]) -> None:
    require_documented_error(np.array(values, dtype=np.float32))


def test_a_value_becomes_the_same_float16_number_whatever_is_in_its_tensor() -> None:
    """A device that lost its slice takes the same values from the whole model; weights end at a power of two."""
    weights = np.random.default_rng(0).uniform(-0.125, 0.125, 100_000).astype(np.float32)
    alone = round_trip(weights, "float16")
    for larger in (0.12500001, 0.2, 3.0):
        beside = round_trip(np.append(weights, np.float32(larger)), "float16")
        np.testing.assert_array_equal(beside[:-1], alone)
    assert np.abs(alone).max() == 0.125


def test_powers_of_two_in_reach_are_exact() -> None:
    array = np.array([2.0**-20, 2.0**-30, -(2.0**-34)], dtype=np.float32)
    np.testing.assert_array_equal(round_trip(array, "float16"), array)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensors_without_elements_pass(precision: str) -> None:
    assert round_trip(np.zeros((0, 3), dtype=np.float32), precision).shape == (0, 3)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_several_tensors_keep_order_and_shape(precision: str) -> None:
    arrays = {name: np.full(shape, number + 1, np.float32) for number, (name, shape) in enumerate(SHAPES.items())}
    decoded = tensor_codec.decode(tensor_codec.encode(arrays, SHAPES, Codec(precision)), SHAPES, Codec(precision))
    assert list(decoded) == ["a", "b", "c"]
    for name in SHAPES:
        np.testing.assert_allclose(decoded[name], arrays[name], rtol=2.0**-7)
        assert decoded[name].flags.writeable


@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_order_does_not_matter(precision: str) -> None:
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    shapes = {"x": (3, 2)}
    transposed = tensor_codec.encode({"x": array.T}, shapes, Codec(precision))
    assert transposed == tensor_codec.encode({"x": np.ascontiguousarray(array.T)}, shapes, Codec(precision))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_values_that_are_not_finite_float32_are_refused_on_encode(precision: str, bad: float) -> None:
    with pytest.raises(InvalidValueError, match="x must be finite"):
        tensor_codec.encode({"x": np.array([1.0, bad])}, {"x": (2,)}, Codec(precision))


def test_a_wrong_shape_is_refused_on_encode() -> None:
    with pytest.raises(InvalidValueError, match=r"x must have shape \(2,\), got \(1, 2\)"):
        tensor_codec.encode({"x": np.ones((1, 2), np.float32)}, {"x": (2,)}, Codec("float32"))


def float16_payload(exponent: int, sent: np.ndarray) -> bytes:
    """One tensor, not compressed."""
    halves = np.frombuffer(sent.astype("<f2").tobytes(), dtype=np.uint8).reshape(-1, 2)
    return b"\0" + struct.pack("b", exponent) + halves[:, 0].tobytes() + halves[:, 1].tobytes()


@pytest.mark.parametrize("exponent", [-127, -128])
def test_a_scale_below_the_smallest_is_refused(exponent: int) -> None:
    with pytest.raises(ProtocolError, match=rf"scale must be a power of two from 2\^-126 to 2\^127, got 2\^{exponent}"):
        tensor_codec.decode(float16_payload(exponent, np.ones(1)), {"x": (1,)}, Codec("float16"))


HALVES = np.arange(2**16, dtype=np.uint16).view("<f2")


@pytest.mark.parametrize("exponent", [-126, -20, 0, 16, 112])
def test_every_float16_is_decoded_as_numpy_decodes_it(exponent: int) -> None:
    sent = HALVES[np.isfinite(HALVES)]
    decoded = tensor_codec.decode(float16_payload(exponent, sent), {"x": sent.shape}, Codec("float16"))["x"]
    expected = sent.astype(np.float32) * np.ldexp(np.float32(1), exponent)
    np.testing.assert_array_equal(decoded.view(np.uint32), expected.view(np.uint32))


@pytest.mark.parametrize("exponent", [-126, 0, 120])
def test_every_float16_that_is_not_finite_is_refused(exponent: int) -> None:
    for wrong in HALVES[~np.isfinite(HALVES)]:
        with pytest.raises(ProtocolError, match="tensor values must be finite"):
            tensor_codec.decode(float16_payload(exponent, np.array([wrong])), {"x": (1,)}, Codec("float16"))


@pytest.mark.parametrize(
    ("payload", "precision"),
    [
        (b"\0" + struct.pack("<f", float("nan")), "float32"),
        (b"\0" + struct.pack("<f", float("-inf")), "float32"),
        (float16_payload(0, np.array([float("nan")])), "float16"),
        (float16_payload(127, np.array([60000.0])), "float16"),
        (float16_payload(113, np.array([32768.0])), "float16"),
    ],
)
def test_values_that_are_not_finite_are_refused_on_decode(payload: bytes, precision: str) -> None:
    with pytest.raises(ProtocolError, match="tensor values must be finite"):
        tensor_codec.decode(payload, {"x": (1,)}, Codec(precision))
