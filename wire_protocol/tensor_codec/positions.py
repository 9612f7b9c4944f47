"""Which values were sent, as bytes: gaps between them or a bitmap, whichever is smaller once compressed.

`gaps`: for each value one byte, how many are skipped before it, 255 for 255 and more; then for each 255 the gap as a
little-endian uint32. `bitmap`: one bit a value, most significant first. Large changes come in whole neurons, so that
gaps under zstd take 30 % less than the entropy of independent positions: 4.0 bits a value for the top 5 % of LeNet
updates, Golomb-Rice codes (Golomb 1966) 6.0 with one parameter and 4.8 with one for each 64 gaps.

Decoding is total; a mask of `size` values takes one byte each.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import ProtocolError
from wire_protocol.tensor_codec.compression import SPARSE_LEVEL, open_section, section

Mask = NDArray[np.bool_]

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


def unpack_positions(content: memoryview, most: int, size: int) -> tuple[Mask, memoryview]:
    """A mask of `size` values with at most `most` set, and what follows it; raises `ProtocolError`."""
    if len(content) < _HEAD.size:
        raise ProtocolError("tensor bytes: the positions are missing")
    kind, count, length = _HEAD.unpack(content[: _HEAD.size])
    if count > most or length > len(content) - _HEAD.size:
        raise ProtocolError(f"tensor bytes: {count} positions in {length} bytes, expected at most {most}")
    packed, rest = content[_HEAD.size : _HEAD.size + length], content[_HEAD.size + length :]
    if kind == _GAPS:
        return _from_gaps(open_section(packed, _LONGEST_GAP_BYTES * count), count, size), rest
    if kind == _BITMAP:
        return _from_bitmap(open_section(packed, -(-size // 8)), count, size), rest
    raise ProtocolError(f"tensor bytes: the kind of positions must be 0 or 1, got {kind}")


def _gaps(mask: Mask) -> bytes:
    gaps = np.diff(np.flatnonzero(mask), prepend=-1) - 1
    long = gaps[gaps >= _ESCAPE]
    return bytes(np.minimum(gaps, _ESCAPE).astype(np.uint8).tobytes() + long.astype("<u4").tobytes())


def _from_gaps(body: bytes | memoryview, count: int, size: int) -> Mask:
    if len(body) < count:
        raise ProtocolError(f"tensor bytes: {count} gaps in {len(body)} bytes")
    short = np.frombuffer(body, dtype=np.uint8, count=count)
    escaped = short == _ESCAPE
    expected = count + 4 * int(np.count_nonzero(escaped))
    if len(body) != expected:
        raise ProtocolError(f"tensor bytes: {count} gaps take {expected} bytes, got {len(body)}")
    places = short.astype(np.int64)
    long = np.frombuffer(body, dtype="<u4", offset=count)
    if (long < _ESCAPE).any():
        raise ProtocolError(f"tensor bytes: a long gap must be at least {_ESCAPE}")
    places[escaped] = long
    places += 1
    np.cumsum(places, out=places)
    if count and places[-1] > size:
        raise ProtocolError(f"tensor bytes: a position past the {size} values")
    mask = np.zeros(size, dtype=np.bool_)
    places -= 1
    mask[places] = True
    return mask


def _bitmap(mask: Mask) -> bytes:
    return np.packbits(mask).tobytes()


def _from_bitmap(body: bytes | memoryview, count: int, size: int) -> Mask:
    if len(body) != -(-size // 8):
        raise ProtocolError(f"tensor bytes: a bitmap of {size} values takes {-(-size // 8)} bytes, got {len(body)}")
    bits = np.unpackbits(np.frombuffer(body, dtype=np.uint8)).view(np.bool_)
    if bits[size:].any() or int(np.count_nonzero(bits)) != count:
        raise ProtocolError(f"tensor bytes: a bitmap must set {count} of its {size} bits")
    return bits[:size]
