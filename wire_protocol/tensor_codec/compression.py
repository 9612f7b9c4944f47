"""Sections: bytes as they are, or as one Zstandard frame (RFC 8878) where that is smaller.

A section is a method byte, 0 plain or 1 zstd, and a body. Opening is total: any bytes give a body of at most the size
asked for, or `ProtocolError`. A frame must state its content's size, and that size and its window are checked before
any memory is taken for them, so that a few bytes cannot ask for gigabytes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

import zstandard

from wire_protocol.errors import ProtocolError

DENSE_LEVEL = 1
"""Quantised values have few repeats: on updates of a LeNet level 12 takes 3 % off int4 and 10 % off ternary."""
SPARSE_LEVEL = 12
"""Positions have patterns (whole neurons change together): 6 % smaller than at level 3, and there are few of them."""

_PLAIN, _ZSTD = 0, 1
_SMALLEST_WINDOW = 1024
_of_this_thread = threading.local()
"""A thread's `decompressor`; making one takes longer than to open a small section."""


def section(parts: Sequence[bytes], level: int | None) -> bytes:
    """A section whose body is `parts`, of different kinds of bytes, end to end.

    Each part has blocks of its own in the frame, with its own code. `level` None never compresses, so that equal
    bodies give equal bytes everywhere.
    """
    body = b"".join(parts)
    if level is None:
        return bytes([_PLAIN]) + body
    frame = _frame(parts, zstandard.ZstdCompressor(level=level, write_checksum=False).compressobj(size=len(body)))
    return bytes([_ZSTD]) + frame if len(frame) < len(body) else bytes([_PLAIN]) + body


def _frame(parts: Sequence[bytes], compressor: zstandard.ZstdCompressionObj) -> bytes:
    blocks = []
    for part in parts[:-1]:
        blocks += [compressor.compress(part), compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)]
    return b"".join([*blocks, compressor.compress(parts[-1]), compressor.flush()])


def open_section(content: memoryview, most: int) -> bytes | memoryview:
    """The body of a section, of at most `most` bytes; raises `ProtocolError`."""
    if not content:
        raise ProtocolError("tensor bytes: a section is missing")
    method, body = content[0], content[1:]
    if method == _PLAIN:
        if len(body) > most:
            raise ProtocolError(f"tensor bytes: a section has {len(body)} bytes, expected at most {most}")
        return body
    if method != _ZSTD:
        raise ProtocolError(f"tensor bytes: a section's method must be 0 or 1, got {method}")
    return _decompressed(body, most)


def _decompressor() -> zstandard.ZstdDecompressor:
    if not hasattr(_of_this_thread, "decompressor"):
        _of_this_thread.decompressor = zstandard.ZstdDecompressor()
    found: zstandard.ZstdDecompressor = _of_this_thread.decompressor
    return found


def _decompressed(frame: memoryview, most: int) -> bytes:
    try:
        parameters = zstandard.get_frame_parameters(frame)
        if parameters.content_size > most:
            raise ProtocolError(
                f"tensor bytes: a zstd frame of {parameters.content_size} bytes, at most {most} allowed"
            )
        if parameters.window_size > max(_SMALLEST_WINDOW, most) or parameters.dict_id:
            raise ProtocolError("tensor bytes: a zstd frame with too large a window or a dictionary")
        if not parameters.content_size:
            raise ProtocolError("tensor bytes: an empty zstd frame")
        return _decompressor().decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ProtocolError(f"tensor bytes: not a zstd frame: {error}") from error
