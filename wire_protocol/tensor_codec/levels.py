"""Values as whole levels times a scale for each block of 1024 values of one tensor: int8, int4, ternary, signs.

With a generator, rounding is stochastic and unbiased: E[decoded] = value, to 2^-23 of a level, as a value between two
levels goes to each with the probability that its distance from the other one gives (QSGD, Alistarh et al. 2017; with
one level TernGrad, Wen et al. 2017). Without one it goes to the nearest level: half the largest error, and the same
bytes each time.
`signs` is one bit a value, times the block's mean magnitude (Sattler et al. 2019); it is for values chosen as large.

A scale is the upper half of a float32 (bfloat16), rounded up so that nothing is clipped. The block was chosen on
updates of a LeNet: at 1024 the entropy coder takes 18 % less than at 256 for int4, at 1.2 times
the error, and one outlier still spoils no more than its own block.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import InvalidValueError, ProtocolError

Vector = NDArray[np.float32]
Rows = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Levels = Literal["int8", "int4", "ternary", "signs"]

BLOCK = 1024
SCALE_BYTES = 2
LARGEST: dict[Levels, int] = {"int8": 127, "int4": 7, "ternary": 1, "signs": 1}

_REMEMBERED_LENGTHS = 256
_A_BYTE: dict[Levels, int] = {"int8": 1, "int4": 2, "ternary": 5, "signs": 8}
_TRITS = np.array([81, 27, 9, 3, 1], dtype=np.uint8)


def packed_bytes(values: int, blocks: int, kind: Levels) -> int:
    """Bytes of so many values in so many blocks."""
    return SCALE_BYTES * blocks + -(-values // _A_BYTE[kind])


@lru_cache(_REMEMBERED_LENGTHS)
def block_lengths(counts: tuple[int, ...]) -> NDArray[np.intp]:
    """Values of every block of tensors of so many values, all above 0."""
    return _lengths(np.array(counts, dtype=np.intp))


def blocks_of(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    """Blocks of each of tensors of so many values."""
    return -(-counts // BLOCK)


def _lengths(counts: NDArray[np.intp]) -> NDArray[np.intp]:
    filled = counts[counts > 0]
    blocks = blocks_of(filled)
    lengths = np.full(blocks.sum(), BLOCK, dtype=np.intp)
    lengths[np.cumsum(blocks) - 1] = filled - (blocks - 1) * BLOCK
    return lengths


def pack(values: Vector, counts: tuple[int, ...], kind: Levels, generator: np.random.Generator | None) -> bytes:
    """Scales of all blocks, then levels of all values; raises `InvalidValueError` on what no scale reaches."""
    lengths = block_lengths(counts)
    halves = _scales(values, lengths, kind)
    if kind == "signs":
        return bytes(halves.tobytes() + np.packbits(values >= 0).tobytes())
    divisors = np.repeat(_read_scales(halves), lengths)
    scaled = np.divide(values, divisors, out=np.zeros_like(values), where=divisors > 0)
    largest = LARGEST[kind]
    if generator is None:
        np.rint(scaled, out=scaled)
    else:
        scaled += generator.random(scaled.shape, dtype=np.float32)
        np.floor(scaled, out=scaled)
    levels = np.clip(scaled, -largest, largest, out=scaled).astype(np.int8)
    return bytes(halves.tobytes() + _PACKERS[kind](levels))


def unpack(bodies: Bytes, counts: tuple[int, ...], kind: Levels) -> Rows:
    """The values (n, values), all finite, of so many bodies (n, bytes); raises `ProtocolError` on an illegal scale or
    level.
    """
    total, lengths = sum(counts), block_lengths(counts)
    scales = _legal_scales(np.ascontiguousarray(bodies[:, : SCALE_BYTES * len(lengths)]), kind)
    values = _read_levels(bodies[:, SCALE_BYTES * len(lengths) :], kind)
    _require_padding(values[:, total:], kind)
    values = values[:, :total]
    values *= np.repeat(scales, lengths, axis=1)
    return values


def unpack_unlike(bodies: Sequence[bytes | memoryview], counts: NDArray[np.intp], kind: Levels) -> Vector:
    """The values, end to end, of bodies of unequal lengths, as `unpack` reads them; `counts` are (bodies, tensors)."""
    ends = SCALE_BYTES * blocks_of(counts).sum(axis=1)
    parts = list(zip(bodies, ends.tolist(), strict=True))
    scales = _legal_scales(np.frombuffer(b"".join([body[:end] for body, end in parts]), dtype=np.uint8), kind)
    coded = np.frombuffer(b"".join([body[end:] for body, end in parts]), dtype=np.uint8)
    values: Vector = _read_levels(coded[None], kind)[0]
    levels = np.array([_A_BYTE[kind] * (len(body) - end) for body, end in parts])
    padding = [
        place
        for end, length in zip(np.cumsum(levels).tolist(), (levels - counts.sum(axis=1)).tolist(), strict=True)
        for place in range(end - length, end)
    ]
    if padding:
        _require_padding(values[padding], kind)
        values = np.delete(values, padding)
    values *= np.repeat(scales, _lengths(counts.ravel()))
    return values


def _legal_scales(packed: Bytes, kind: Levels) -> Rows:
    halves = packed.view("<u2")
    if halves.max(initial=0) > _LARGEST_SCALE[kind]:
        raise ProtocolError(f"tensor scale must be finite and not negative, and so {LARGEST[kind]} times it")
    return _read_scales(halves)


def _require_padding(levels: Rows, kind: Levels) -> None:
    if (levels != (-1 if kind == "signs" else 0)).any():
        raise ProtocolError("tensor levels: bits past the last value must be those of level 0, or 0 for signs")


def _read_levels(coded: Bytes, kind: Levels) -> Rows:
    signed = coded.view(np.int8)
    match kind:
        case "int8":
            legal = signed.min(initial=0) >= -LARGEST[kind]
        case "int4":
            legal = coded.min(initial=255) >= 16 and np.bitwise_and(coded, 15).min(initial=15) > 0
        case "ternary":
            legal = coded.max(initial=0) < 3**5
        case "signs":
            legal = True
    if not legal:
        raise ProtocolError(f"tensor levels of {kind} must be from {-LARGEST[kind]} to {LARGEST[kind]}")
    if kind == "int8":
        return signed.astype(np.float32)
    return _TABLES[kind].take(coded, axis=0).reshape(len(coded), _A_BYTE[kind] * coded.shape[1])


def _scales(values: Vector, lengths: NDArray[np.intp], kind: Levels) -> NDArray[np.uint16]:
    magnitudes, starts = np.abs(values), np.cumsum(lengths) - lengths
    if not len(starts):
        return np.zeros(0, dtype="<u2")
    largest = np.maximum.reduceat(magnitudes, starts)
    sums = np.add.reduceat(magnitudes, starts, dtype=np.float64)
    needed = (sums / lengths).astype(np.float32) if kind == "signs" else largest / np.float32(LARGEST[kind])
    halves: NDArray[np.uint16] = ((needed.view(np.uint32) + np.uint32(0xFFFF)) >> np.uint32(16)).astype("<u2")
    halves = np.maximum(halves, largest > 0)
    if halves.max() > _LARGEST_SCALE[kind]:
        raise InvalidValueError(f"values as {kind} must be below 2^127 in magnitude (did the training diverge?)")
    return halves


def _read_scales(halves: NDArray[np.uint16]) -> Vector:
    scales: Vector = (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return scales


def _pack_int8(levels: NDArray[np.int8]) -> bytes:
    return levels.tobytes()


def _pack_int4(levels: NDArray[np.int8]) -> bytes:
    nibbles = np.full(len(levels) + len(levels) % 2, 8, dtype=np.uint8)
    nibbles[: len(levels)] += levels.view(np.uint8)
    packed: NDArray[np.uint8] = (nibbles[::2] << np.uint8(4)) | nibbles[1::2]
    return packed.tobytes()


def _pack_ternary(levels: NDArray[np.int8]) -> bytes:
    trits = np.ones(-(-len(levels) // 5) * 5, dtype=np.uint8)
    trits[: len(levels)] += levels.view(np.uint8)
    packed: NDArray[np.uint8] = (trits.reshape(-1, 5) * _TRITS).sum(axis=1, dtype=np.uint8)
    return packed.tobytes()


def _int4_table() -> Vector:
    level = np.arange(-8, 8, dtype=np.float32)
    codes = np.arange(256)
    return np.stack([level[codes >> 4], level[codes & 15]], axis=1)


def _ternary_table() -> Vector:
    codes = np.arange(256)
    return np.stack([codes // weight % 3 - 1 for weight in _TRITS.astype(int)], axis=1).astype(np.float32)


def _signs_table() -> Vector:
    bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    return (bits.astype(np.float32) * 2 - 1).astype(np.float32)


def _largest_scale(kind: Levels) -> int:
    """The largest upper half of a float32 whose product with the largest level is finite."""
    scales = _read_scales(np.arange(0x7F80, dtype="<u2"))
    with np.errstate(over="ignore"):
        return int(np.flatnonzero(np.isfinite(scales * np.float32(LARGEST[kind]))).max())


_LARGEST_SCALE = {kind: _largest_scale(kind) for kind in LARGEST}
_PACKERS = {"int8": _pack_int8, "int4": _pack_int4, "ternary": _pack_ternary}
_TABLES: dict[Levels, Vector] = {"int4": _int4_table(), "ternary": _ternary_table(), "signs": _signs_table()}
