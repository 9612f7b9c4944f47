"""Arrays to bytes and back, in wire order, without names or shapes: both ends know them from the layout.

`float32`: little-endian values. `float16`: for each tensor a little-endian float32 scale, a power of two that brings
the largest magnitude into [2^14, 2^15), then little-endian float16 values of array / scale; the relative error of a
value is at most 2^-11 down to 2^-28 of the tensor's largest magnitude (IEEE 754-2019 binary16). Power-of-two scales
keep the products exact. The smallest scale is 2^-126, so that below it the absolute error is at most 2^-151.

Decoding is total: any bytes give finite float32 arrays of the asked shapes, or `ProtocolError`.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.sub_model import Arrays

Precision = Literal["float32", "float16"]
Shapes = Mapping[str, tuple[int, ...]]

_SCALE_BYTES = 4
_TARGET_EXPONENT = 15
_LARGEST_SCALED = np.float32(32752)
"""The float16 below 2^15, to which nothing is rounded up, as times the largest scale it would not be finite."""
_SMALLEST_EXPONENT, _LARGEST_EXPONENT = -126, 127


def encoded_size(shapes: Shapes, precision: Precision) -> int:
    """Bytes that arrays of these shapes take."""
    elements = sum(prod(shape) for shape in shapes.values())
    return elements * 4 if precision == "float32" else elements * 2 + _SCALE_BYTES * len(shapes)


def encode(arrays: Arrays, shapes: Shapes, precision: Precision) -> bytes:
    """Encode `arrays` in the order of `shapes`; raises `InvalidValueError` on a wrong shape or a value not finite."""
    parts = []
    for name, shape in shapes.items():
        with np.errstate(over="ignore"):
            array = np.asarray(arrays[name], dtype=np.float32)
        if array.shape != shape:
            raise InvalidValueError(f"{name} must have shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise InvalidValueError(f"{name} must be finite, got NaN or infinity (did the training diverge?)")
        parts.append(_encode_tensor(array, precision))
    return b"".join(parts)


def decode(buffer: bytes, shapes: Shapes, precision: Precision) -> dict[str, NDArray[np.float32]]:
    """Decode float32 arrays of the given shapes; raises `ProtocolError` on a wrong length or a value not finite."""
    expected = encoded_size(shapes, precision)
    if len(buffer) != expected:
        raise ProtocolError(f"tensor bytes: expected {expected} for {precision}, got {len(buffer)}")
    arrays = {}
    view = memoryview(buffer)
    offset = 0
    for name, shape in shapes.items():
        size = encoded_size({name: shape}, precision)
        array = _decode_tensor(view[offset : offset + size], precision).reshape(shape)
        if not np.isfinite(array).all():
            raise ProtocolError(f"tensor {name} holds a value that is not finite")
        arrays[name] = array
        offset += size
    return arrays


def _encode_tensor(array: NDArray[Any], precision: Precision) -> bytes:
    if precision == "float32":
        return array.astype("<f4", copy=False).tobytes()
    largest = float(np.abs(array).max(initial=0.0))
    exponent = max(_SMALLEST_EXPONENT, int(np.frexp(largest)[1]) - _TARGET_EXPONENT) if largest else 0
    scale = np.ldexp(np.float32(1), exponent).astype("<f4")
    scaled = np.clip(array / scale, -_LARGEST_SCALED, _LARGEST_SCALED)
    return bytes(scale.tobytes() + scaled.astype("<f2").tobytes())


def _decode_tensor(buffer: memoryview, precision: Precision) -> NDArray[np.float32]:
    if precision == "float32":
        return np.frombuffer(buffer, dtype="<f4").astype(np.float32)
    scale = np.frombuffer(buffer[:_SCALE_BYTES], dtype="<f4").astype(np.float32)[0]
    mantissa, exponent = np.frexp(scale)
    if mantissa != 0.5 or not _SMALLEST_EXPONENT < exponent <= _LARGEST_EXPONENT + 1:
        raise ProtocolError(f"tensor scale must be a power of two from 2^-126 to 2^127, got {float(scale)}")
    values = np.frombuffer(buffer[_SCALE_BYTES:], dtype="<f2").astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        values *= scale
    return values
