"""Values as floating-point numbers.

`float32`: little-endian values. `float16`: for each tensor a little-endian float32 scale, a power of two that brings
the largest magnitude into [2^14, 2^15), then little-endian float16 values of array / scale; the relative error of a
value is at most 2^-11 down to 2^-28 of the tensor's largest magnitude (IEEE 754-2019 binary16). Power-of-two scales
keep the products exact, and down to there a value is rounded to the same number whatever else is in its tensor: the
slice of a model is the model's slice. The smallest scale is 2^-126, so that below it the absolute error is at most
2^-151.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import frexp

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import ProtocolError

Vector = NDArray[np.float32]

_SCALE = struct.Struct("<f")
SCALE_BYTES = _SCALE.size
_TARGET_EXPONENT = 15
_LARGEST_SCALED = np.float32(32752)
"""The float16 below 2^15, to which nothing is rounded up at the largest scale, as the product would not be finite."""
_LARGEST_SCALE_EXPONENT = 128 - _TARGET_EXPONENT
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -126, 127
_FRACTION_BITS_MORE = 13
_FLOAT16_BITS = np.array(0x8FFFE000, dtype=np.uint32).view(np.int32)
_BIASES = np.float32(2.0**112)
_LARGEST_FLOAT16 = 65504.0


def pack_float32(values: Vector) -> bytes:
    """4 bytes a value."""
    return values.astype("<f4", copy=False).tobytes()


def unpack_float32(body: bytes | memoryview) -> Vector:
    """The values, in memory of their own."""
    return np.frombuffer(body, dtype="<f4").astype(np.float32)


def pack_float16(values: Vector, counts: Sequence[int]) -> bytes:
    """For each tensor, `counts` values long, its scale and 2 bytes a value."""
    parts, offset = [], 0
    for count in counts:
        parts.append(_pack_tensor(values[offset : offset + count]))
        offset += count
    return b"".join(parts)


def unpack_float16(body: bytes | memoryview, counts: Sequence[int]) -> Vector:
    """The values; those that are no number stay so. Raises `ProtocolError` on a scale that is no legal power of two."""
    values = np.empty(sum(counts), dtype=np.float32)
    signed, halves = values.view(np.int32), np.frombuffer(body, dtype="<i2")
    scaled, offset, start = [], 0, 0
    for count in counts:
        end = offset + count
        scaled.append((values[offset:end], _read_scale(body, 2 * start)))
        start += SCALE_BYTES // 2
        signed[offset:end] = halves[start : start + count]
        offset, start = end, start + count
    _widen(values)
    with np.errstate(over="ignore", invalid="ignore"):
        for part, scale in scaled:
            np.multiply(part, scale, out=part)
    return values


def _widen(values: Vector) -> None:
    """Make float32 values of the float16 bits that stand, sign-extended, in place of each.

    Sign, exponent and fraction are moved to where float32 has them. What is then missing is the difference of the
    exponents' biases, a factor of 2^112 that is exact, subnormals included. NumPy's own conversion goes value by value
    and takes five times as long.
    """
    signed = values.view(np.int32)
    np.left_shift(signed, _FRACTION_BITS_MORE, out=signed)
    np.bitwise_and(signed, _FLOAT16_BITS, out=signed)
    np.multiply(values, _BIASES, out=values)
    if max(values.max(initial=0), -values.min(initial=0)) > _LARGEST_FLOAT16:
        values[np.abs(values) > _LARGEST_FLOAT16] = np.nan


def _pack_tensor(array: Vector) -> bytes:
    largest = float(np.abs(array).max(initial=0.0))
    exponent = max(_SMALLEST_EXPONENT, int(np.frexp(largest)[1]) - _TARGET_EXPONENT) if largest else 0
    scale = np.ldexp(np.float32(1), exponent).astype("<f4")
    scaled = array / scale
    if exponent == _LARGEST_SCALE_EXPONENT:
        scaled = np.clip(scaled, -_LARGEST_SCALED, _LARGEST_SCALED)
    return bytes(scale.tobytes() + scaled.astype("<f2").tobytes())


def _read_scale(body: bytes | memoryview, start: int) -> float:
    (scale,) = _SCALE.unpack_from(body, start)
    mantissa, exponent = frexp(scale)
    if mantissa != 0.5 or not _SMALLEST_EXPONENT < exponent <= _LARGEST_EXPONENT + 1:
        raise ProtocolError(f"tensor scale must be a power of two from 2^-126 to 2^127, got {scale}")
    return float(scale)
