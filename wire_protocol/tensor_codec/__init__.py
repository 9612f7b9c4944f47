"""Arrays to bytes and back: precisions, top-k, entropy coding, bounds on size."""

from wire_protocol.tensor_codec.codec import (
    Codec,
    DownlinkPrecision,
    Precision,
    Shapes,
    decode,
    decode_alike,
    encode,
    expected_size,
    largest_size,
)

__all__ = [
    "Codec",
    "DownlinkPrecision",
    "Precision",
    "Shapes",
    "decode",
    "decode_alike",
    "encode",
    "expected_size",
    "largest_size",
]
