"""Arrays to bytes and back, in wire order, without names or shapes: both ends know them from the layout.

A `Codec` says how: the precision of a value, and the fraction of values sent, those of largest magnitude over all
tensors (one threshold leaves 35 % less behind in L2 than one for each tensor, measured on updates; Aji and Heafield
2017). What is left out decodes to 0, so a codec that leaves values out is biased and wants error feedback.

    all values     section(values)
    some values    positions, section(values)

Values are floats (`floats`) or levels (`levels`), sections are compressed where that is smaller (`compression`).
Decoding is total: any bytes give finite float32 arrays of the asked shapes, or `ProtocolError`, and it takes at most
four times the memory of those arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate, pairwise
from math import log2, prod
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import InvalidValueError, ProtocolError, require
from wire_protocol.flat_arrays import FlatArrays, SparseArrays
from wire_protocol.sub_model import Arrays
from wire_protocol.tensor_codec import floats, levels
from wire_protocol.tensor_codec.compression import DENSE_LEVEL, SPARSE_LEVEL, open_section, section
from wire_protocol.tensor_codec.positions import (
    LARGEST_HEAD,
    largest_positions,
    pack_positions,
    top_mask,
    unpack_positions,
)

DownlinkPrecision = Literal["float32", "float16", "int8", "int4"]
"""Of models and slices; they are rounded to nearest, which three levels are too few for."""
Precision = Literal["float32", "float16", "int8", "int4", "ternary"]
Shapes = Mapping[str, tuple[int, ...]]
Counts = tuple[int, ...]

Form = Literal["float32", "float16", "int8", "int4", "ternary", "signs"]

_PRECISIONS: tuple[str, ...] = get_args(Precision)
_METHOD_BYTES = 1
_REMEMBERED_SHAPES = 256
_TOGETHER = 2**16
"""Values of small payloads that are decoded in one call: 256 kB, so that all steps find them in the cache."""
_EXPECTED_BITS: dict[Form, float] = {
    "float32": 29.6, "float16": 13.8, "int8": 6.3, "int4": 2.2, "ternary": 0.77, "signs": 1.0,
}  # fmt: skip
_EXPECTED_KEPT_BITS: dict[Form, float] = {**_EXPECTED_BITS, "int8": 7.0, "int4": 3.2}
_EXPECTED_OF_ENTROPY = 0.73
"""What positions take of the entropy of independent ones. All three tables: real updates of a LeNet."""


@dataclass(frozen=True)
class Codec:
    """`precision` of each value sent; `keep_values`, in (0, 1], is the fraction of values sent, 1 for all."""

    precision: Precision
    keep_values: float = 1.0

    def __post_init__(self) -> None:
        require(self.precision in _PRECISIONS, "precision", self.precision, f"one of {', '.join(_PRECISIONS)}")
        require(0 < self.keep_values <= 1, "keep_values", self.keep_values, "above 0 and at most 1")

    @property
    def sparse(self) -> bool:
        """Whether values are left out."""
        return self.keep_values < 1

    @property
    def form(self) -> Form:
        """How the values sent stand in bytes: of ternary values left after a choice only the signs are of use."""
        return "signs" if self.precision == "ternary" and self.sparse else self.precision

    def kept_of(self, size: int) -> int:
        """Values sent of `size`, at most."""
        return min(size, max(1, round(self.keep_values * size)))


def largest_size(shapes: Shapes, codec: Codec) -> int:
    """Bytes that arrays of these shapes take at most; exactly these where nothing is left out or compressed."""
    return _largest_size(_counts(shapes), codec)


def expected_size(shapes: Shapes, codec: Codec) -> int:
    """Bytes that arrays of these shapes may be expected to take, for planning; an estimate, not a bound."""
    counts = _counts(shapes)
    size = sum(counts)
    share = codec.kept_of(size) / max(size, 1)
    if codec.sparse and share < 1:
        entropy = -share * log2(share) - (1 - share) * log2(1 - share)
        bits = size * (entropy * _EXPECTED_OF_ENTROPY + share * _EXPECTED_KEPT_BITS[codec.form])
    else:
        bits = size * _EXPECTED_BITS[codec.form]
    return min(largest_size(shapes, codec), round(bits / 8) + LARGEST_HEAD + floats.SCALE_BYTES * len(counts))


def encode(
    arrays: Arrays,
    shapes: Shapes,
    codec: Codec,
    generator: np.random.Generator | None = None,
    *,
    compress: bool = True,
) -> bytes:
    """Encode `arrays` in the order of `shapes`; raises `InvalidValueError` on a wrong shape or a value not finite.

    With a `generator`, levels are rounded at random and without bias; without one to the nearest, which always gives
    the same values. `compress` False also gives the same bytes everywhere, as versions of zstd differ in theirs.
    """
    values, counts = _flat(arrays, shapes), _counts(shapes)
    if not codec.sparse:
        return section(_pack(values, counts, codec, generator), DENSE_LEVEL if compress else None)
    mask = top_mask(values, codec.kept_of(len(values)))
    parts = _pack(values[mask], _kept_counts(mask, counts), codec, generator)
    return pack_positions(mask) + section(parts, SPARSE_LEVEL if compress else None)


def decode(payload: bytes, shapes: Shapes, codec: Codec) -> FlatArrays:
    """Decode float32 arrays of the given shapes; raises `ProtocolError` on anything that `encode` cannot give."""
    (arrays,) = decode_alike([payload], shapes, codec)
    return arrays


def decode_alike(payloads: Sequence[bytes], shapes: Shapes, codec: Codec) -> Iterator[FlatArrays]:
    """What `decode` makes of each, bit for bit; raises `ProtocolError` where it would for one of the next.

    Small payloads take their time in calls, which are made once for `_TOGETHER` values sent, when the first of them is
    asked for. Those lie in one array, which is in memory as long as one of them.
    """
    counts = _counts(shapes)
    most, rows = _largest_size(counts, codec), max(1, _TOGETHER // max(1, codec.kept_of(sum(counts))))
    read = _decode_sparse if codec.sparse else _decode_all
    for start in range(0, len(payloads), rows):
        part = payloads[start : start + rows]
        longest = max(map(len, part))
        if longest > most:
            raise ProtocolError(f"tensor bytes: expected at most {most} for {codec}, got {longest}")
        yield from read([memoryview(payload) for payload in part], shapes, codec)


def _decode_all(contents: Sequence[memoryview], shapes: Shapes, codec: Codec) -> list[FlatArrays]:
    counts, form = _counts(shapes), codec.form
    expected = _body_bytes(counts, codec)
    opened = _opened(contents, [expected] * len(contents), codec)
    bodies = np.frombuffer(b"".join(opened), dtype=np.uint8).reshape(len(opened), expected)
    if form == "float32":
        rows = floats.unpack_float32(bodies)
    elif form == "float16":
        rows = floats.unpack_float16(bodies, counts)
    else:
        rows = levels.unpack(bodies, counts, form)
    return [FlatArrays(row, shapes) for row in rows]


def _decode_sparse(contents: Sequence[memoryview], shapes: Shapes, codec: Codec) -> list[FlatArrays]:
    counts, form = _counts(shapes), codec.form
    size = sum(counts)
    positions, rests = unpack_positions(contents, codec.kept_of(size), size)
    sent = _sent_counts(positions, counts)
    opened = _opened(rests, _bodies_bytes(sent, codec), codec)
    if form == "float32":
        values = floats.unpack_float32(np.frombuffer(b"".join(opened), dtype=np.uint8))
    elif form == "float16":
        values = floats.unpack_float16_unlike(opened, sent)
    else:
        values = levels.unpack_unlike(opened, sent, form)
    ends = accumulate(map(len, positions))
    return [
        SparseArrays(places, values[end - len(places) : end], shapes)
        for places, end in zip(positions, ends, strict=True)
    ]


def _sent_counts(positions: Sequence[NDArray[Any]], counts: Counts) -> NDArray[np.intp]:
    """How many of the positions in each vector are in each of its tensors, of so many values: (vectors, tensors)."""
    dtype = positions[0].dtype
    firsts = np.arange(len(positions), dtype=dtype) * dtype.type(sum(counts))
    numbers = np.concatenate(positions)
    numbers += np.repeat(firsts, [len(places) for places in positions])
    ends = firsts[:, None] + np.cumsum(counts, dtype=dtype)
    sent: NDArray[np.intp] = np.diff(np.searchsorted(numbers, ends.ravel()), prepend=0).reshape(ends.shape)
    return sent


def _largest_size(counts: Counts, codec: Codec) -> int:
    if not codec.sparse:
        return _METHOD_BYTES + _body_bytes(counts, codec)
    size = sum(counts)
    count = codec.kept_of(size)
    return largest_positions(count, size) + _METHOD_BYTES + _largest_body(count, len(counts), codec)


def _counts(shapes: Shapes) -> Counts:
    return _sizes(tuple(shapes.values()))


@lru_cache(_REMEMBERED_SHAPES)
def _sizes(shapes: tuple[tuple[int, ...], ...]) -> Counts:
    return tuple(map(prod, shapes))


def _kept_counts(mask: NDArray[np.bool_], counts: Counts) -> Counts:
    ends = np.cumsum([0, *counts])
    return tuple(int(np.count_nonzero(mask[start:end])) for start, end in pairwise(ends))


def _flat(arrays: Arrays, shapes: Shapes) -> NDArray[np.float32]:
    parts = [np.zeros(0, dtype=np.float32)]
    for name, shape in shapes.items():
        with np.errstate(over="ignore"):
            array = np.asarray(arrays[name], dtype=np.float32)
        if array.shape != shape:
            raise InvalidValueError(f"{name} must have shape {shape}, got {array.shape}")
        if not np.isfinite(array).all():
            raise InvalidValueError(f"{name} must be finite, got NaN or infinity (did the training diverge?)")
        parts.append(array.ravel())
    return np.concatenate(parts)


@lru_cache(_REMEMBERED_SHAPES)
def _body_bytes(counts: Counts, codec: Codec) -> int:
    return _bodies_bytes(np.array([counts], dtype=np.intp), codec)[0]


def _bodies_bytes(counts: NDArray[np.intp], codec: Codec) -> list[int]:
    """Of bodies with so many values (bodies, tensors)."""
    form, totals = codec.form, counts.sum(axis=1)
    if form == "float32":
        sizes = 4 * totals
    elif form == "float16":
        sizes = floats.SCALE_BYTES * counts.shape[1] + 2 * totals
    else:
        sizes = levels.packed_bytes(totals, levels.blocks_of(counts).sum(axis=1), form)
    sizes_of_each: list[int] = sizes.tolist()
    return sizes_of_each


def _largest_body(total: int, tensors: int, codec: Codec) -> int:
    """Of `total` values, however they are spread over the tensors."""
    form = codec.form
    if form == "float32" or form == "float16":  # noqa: PLR1714 - mypy narrows by comparison only
        return _body_bytes((total, *([0] * (tensors - 1))), codec)
    return levels.packed_bytes(total, total // levels.BLOCK + min(total, tensors), form)


def _pack(
    values: NDArray[np.float32], counts: Counts, codec: Codec, generator: np.random.Generator | None
) -> tuple[bytes, ...]:
    """The parts of a section."""
    form = codec.form
    if form == "float32":
        return (floats.pack_float32(values),)
    if form == "float16":
        return floats.pack_float16(values, counts)
    return (levels.pack(values, counts, form, generator),)


def _opened(contents: Sequence[memoryview], expected: Sequence[int], codec: Codec) -> list[bytes | memoryview]:
    """The bodies of sections, of exactly so many bytes."""
    opened = []
    for content, size in zip(contents, expected, strict=True):
        body = open_section(content, size)
        if len(body) != size:
            raise ProtocolError(f"tensor bytes: expected {size} for {codec.precision}, got {len(body)}")
        opened.append(body)
    return opened
