"""Which values were sent, as bytes: gaps between them or a bitmap, whichever is smaller once compressed.

`gaps`: for each value one byte, how many are skipped before it, 255 for 255 and more; then for each 255 the gap as a
little-endian uint32. `bitmap`: one bit a value, most significant first. Large changes come in whole neurons, so that
gaps under zstd take 30 % less than the entropy of independent positions: 4.0 bits a value for the top 5 % of LeNet
updates, Golomb-Rice codes (Golomb 1966) 6.0 with one parameter and 4.8 with one for each 64 gaps.

Decoding is total. Positions in several vectors are unpacked together, as those of small ones cost calls.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import ProtocolError
from wire_protocol.tensor_codec.compression import SPARSE_LEVEL, open_section, section

Mask = NDArray[np.bool_]
Positions = NDArray[np.signedinteger[Any]]

_GAPS, _BITMAP = 0, 1
_HEAD = struct.Struct("<BII")
_ESCAPE = 255
_LONGEST_GAP_BYTES = 5
LARGEST_HEAD = _HEAD.size + 1
"""Bytes on top of gaps or bitmap: kind, number of values, bytes of the section, its method."""


def top_mask(values: NDArray[np.float32], count: int) -> Mask:
    """Where the `count` values of largest magnitude are; zeros never, among equals the first."""
    magnitudes = np.abs(values)
    if not count:
        return np.zeros(len(values), dtype=np.bool_)
    threshold = np.partition(magnitudes, len(values) - count)[len(values) - count]
    mask: Mask = magnitudes > threshold
    if threshold > 0:
        mask[np.flatnonzero(magnitudes == threshold)[: count - int(np.count_nonzero(mask))]] = True
    return mask


def largest_positions(count: int, size: int) -> int:
    """Bytes that the positions of `count` among `size` values take at most."""
    return LARGEST_HEAD + min(_LONGEST_GAP_BYTES * count, -(-size // 8))


def pack_positions(mask: Mask) -> bytes:
    """Head and section."""
    count = int(np.count_nonzero(mask))
    choices = [
        (kind, section((body,), SPARSE_LEVEL)) for kind, body in ((_GAPS, _gaps(mask)), (_BITMAP, _bitmap(mask)))
    ]
    kind, content = min(choices, key=lambda choice: len(choice[1]))
    return _HEAD.pack(kind, count, len(content)) + content


def unpack_positions(contents: Sequence[memoryview], most: int, size: int) -> tuple[list[Positions], list[memoryview]]:
    """At most `most` ascending positions in each of several vectors of `size` values, and what follows them in each
    content; raises `ProtocolError`.

    Positions are of type int32, or int64 where there are 2^31 values and more in all.
    """
    packed = [_split(content, most) for content in contents]
    dtype: type[np.signedinteger[Any]] = np.int32 if size * len(contents) < 2**31 else np.int64
    positions: list[Positions] = []
    for kind, run in groupby(packed, key=lambda one: one.kind):
        positions += (_from_gaps if kind == _GAPS else _from_bitmaps)(list(run), size, dtype)
    return positions, [one.rest for one in packed]


@dataclass(frozen=True)
class _Packed:
    kind: int
    count: int
    section: memoryview
    rest: memoryview


def _split(content: memoryview, most: int) -> _Packed:
    if len(content) < _HEAD.size:
        raise ProtocolError("tensor bytes: the positions are missing")
    kind, count, length = _HEAD.unpack_from(content)
    if count > most or length > len(content) - _HEAD.size:
        raise ProtocolError(f"tensor bytes: {count} positions in {length} bytes, expected at most {most}")
    if kind not in {_GAPS, _BITMAP}:
        raise ProtocolError(f"tensor bytes: the kind of positions must be 0 or 1, got {kind}")
    end = _HEAD.size + length
    return _Packed(kind, count, content[_HEAD.size : end], content[end:])


def _gaps(mask: Mask) -> bytes:
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    long = gaps[gaps >= _ESCAPE]
    return bytes(np.minimum(gaps, _ESCAPE).astype(np.uint8).tobytes() + long.astype("<u4").tobytes())


def _from_gaps(run: Sequence[_Packed], size: int, dtype: type[np.signedinteger[Any]]) -> list[Positions]:
    bodies = [_gaps_of(one) for one in run]
    short = np.frombuffer(b"".join([body[: one.count] for body, one in zip(bodies, run, strict=True)]), dtype=np.uint8)
    long = np.frombuffer(b"".join([body[one.count :] for body, one in zip(bodies, run, strict=True)]), dtype="<u4")
    if (long < _ESCAPE).any():
        raise ProtocolError(f"tensor bytes: a long gap must be at least {_ESCAPE}")
    places = short.astype(dtype)
    places[short == _ESCAPE] = np.minimum(long, size)
    places += dtype(1)
    past = places.sum(dtype=np.int64) > size * len(run)
    np.cumsum(places, out=places)
    counts = [one.count for one in run]
    ends = list(accumulate(counts))
    behind = np.array([places[end - 1] if end else 0 for end in ends], dtype=dtype)
    before = np.concatenate([behind[:1] * 0, behind[:-1]])
    if past or (behind - before > size).any():
        raise ProtocolError(f"tensor bytes: a position past the {size} values")
    places -= np.repeat(before + dtype(1), counts)
    return [places[end - count : end] for end, count in zip(ends, counts, strict=True)]


def _gaps_of(one: _Packed) -> bytes:
    body = bytes(open_section(one.section, _LONGEST_GAP_BYTES * one.count))
    if len(body) < one.count:
        raise ProtocolError(f"tensor bytes: {one.count} gaps in {len(body)} bytes")
    expected = one.count + 4 * body.count(_ESCAPE, 0, one.count)
    if len(body) != expected:
        raise ProtocolError(f"tensor bytes: {one.count} gaps take {expected} bytes, got {len(body)}")
    return body


def _bitmap(mask: Mask) -> bytes:
    return np.packbits(mask).tobytes()


def _from_bitmaps(run: Sequence[_Packed], size: int, dtype: type[np.signedinteger[Any]]) -> list[Positions]:
    return [_from_bitmap(open_section(one.section, -(-size // 8)), one.count, size).astype(dtype) for one in run]


def _from_bitmap(body: bytes | memoryview, count: int, size: int) -> NDArray[np.intp]:
    if len(body) != -(-size // 8):
        raise ProtocolError(f"tensor bytes: a bitmap of {size} values takes {-(-size // 8)} bytes, got {len(body)}")
    bits = np.unpackbits(np.frombuffer(body, dtype=np.uint8)).view(np.bool_)
    if bits[size:].any() or int(np.count_nonzero(bits)) != count:
        raise ProtocolError(f"tensor bytes: a bitmap must set {count} of its {size} bits")
    return np.flatnonzero(bits[:size])
