"""Sections: bytes as they are, or as one Zstandard frame (RFC 8878) where that is smaller.

A section is a method byte, 0 plain or 1 zstd, and a body. Opening is total: any bytes give a body of at most the size
asked for, or `ProtocolError`. A frame must state its content's size, and that size and its window are checked before
any memory is taken for them, so that a few bytes cannot ask for gigabytes.
"""

from __future__ import annotations

import threading

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


def section(body: bytes, level: int | None) -> bytes:
    """A section of `body`; `level` None never compresses, so that equal bodies give equal bytes everywhere."""
    if level is None:
        return bytes([_PLAIN]) + body
    frame = zstandard.ZstdCompressor(level=level, write_checksum=False).compress(body)
    return bytes([_ZSTD]) + frame if len(frame) < len(body) else bytes([_PLAIN]) + body


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
