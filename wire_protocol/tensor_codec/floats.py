"""Values as floating-point numbers.

`float32`: little-endian values. `float16`: for each tensor a little-endian float32 scale, a power of two that brings
the largest magnitude into [2^14, 2^15), then little-endian float16 values of array / scale; the relative error of a
value is at most 2^-11 down to 2^-28 of the tensor's largest magnitude (IEEE 754-2019 binary16). Power-of-two scales
keep the products exact. The smallest scale is 2^-126, so that below it the absolute error is at most 2^-151.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import ProtocolError

Vector = NDArray[np.float32]

SCALE_BYTES = 4
_TARGET_EXPONENT = 15
_LARGEST_SCALED = np.float32(32752)
"""The float16 below 2^15, to which nothing is rounded up, as times the largest scale it would not be finite."""
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -126, 127


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
    view, offset, start = memoryview(body), 0, 0
    for count in counts:
        end = start + SCALE_BYTES + 2 * count
        scale = _read_scale(view[start : start + SCALE_BYTES])
        with np.errstate(over="ignore", invalid="ignore"):
            entries = np.frombuffer(view[start + SCALE_BYTES : end], dtype="<f2")
            np.multiply(entries, scale, out=values[offset : offset + count], dtype=np.float32)
        start, offset = end, offset + count
    return values


def _pack_tensor(array: Vector) -> bytes:
    largest = float(np.abs(array).max(initial=0.0))
    exponent = max(_SMALLEST_EXPONENT, int(np.frexp(largest)[1]) - _TARGET_EXPONENT) if largest else 0
    scale = np.ldexp(np.float32(1), exponent).astype("<f4")
    scaled = np.clip(array / scale, -_LARGEST_SCALED, _LARGEST_SCALED)
    return bytes(scale.tobytes() + scaled.astype("<f2").tobytes())


def _read_scale(content: memoryview) -> np.float32:
    scale = np.frombuffer(content, dtype="<f4").astype(np.float32)[0]
    mantissa, exponent = np.frexp(scale)
    if mantissa != 0.5 or not _SMALLEST_EXPONENT < exponent <= _LARGEST_EXPONENT + 1:
        raise ProtocolError(f"tensor scale must be a power of two from 2^-126 to 2^127, got {float(scale)}")
    checked: np.float32 = scale
    return checked
