"""A whole model as its difference from one that the receiver has, without errors adding up from one to the next.

Both ends hold the base as devices decoded it, so what was lost in coding one difference is part of the next, and a
model is never further from the server's than one coding of one difference leaves it (closed-loop prediction, as in
DPCM: Cutler 1952; for federated models, Tang et al. 2019, "DoubleSqueeze").

The receiver gets the very bytes that it would have fetched whole, and checks them by their SHA-256. Therefore:

* the whole model's bytes *are* base + decoded difference, encoded at the downlink's precision, to the nearest and
  uncompressed; all of that is elementwise IEEE 754 arithmetic and gives the same bytes on every machine;
* the server keeps, as devices do, what those bytes decode to, and makes the next difference from it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import InvalidValueError, ProtocolError, require, require_hex_sha256
from wire_protocol.sub_model import Arrays
from wire_protocol.tensor_codec import Codec, Shapes, decode, encode

DifferencePrecision = Literal["int8", "int4", "ternary"]
MAX_DIFFERENCES = 4
"""On offer in one plan."""


class ModelDifference(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a plan says of a difference on offer: tensor bytes at `precision`, `size` of them, named by their `sha256`.

    `base` is the SHA-256 of the whole model from which it leads to the plan's, coded at the plan's `downlink` as well.
    Both are lower-case hexadecimal.
    """

    base: str
    sha256: str
    size: int
    precision: DifferencePrecision

    def __post_init__(self) -> None:
        require_hex_sha256("base", self.base)
        require_hex_sha256("sha256", self.sha256)
        require(self.size >= 1, "size", self.size, "at least 1")

    @property
    def codec(self) -> Codec:
        """How it is coded."""
        return Codec(self.precision)


@dataclass(frozen=True)
class Coding:
    """`shapes` of the full arrays; how a `whole` model and a `difference` are coded, neither leaving values out."""

    shapes: Shapes
    whole: Codec
    difference: Codec

    def __post_init__(self) -> None:
        for name, codec in (("whole", self.whole), ("difference", self.difference)):
            require(not codec.sparse, f"keep_values of {name}", codec.keep_values, "1")


@dataclass(frozen=True)
class Coded:
    """A model's `whole` bytes, and the `difference` that gives them from the base."""

    whole: bytes
    difference: bytes


def encode_difference(new: Arrays, base: Arrays, coding: Coding) -> Coded:
    """Code `new` against `base` as devices decoded it; raises `InvalidValueError` on a value not finite."""
    change = {name: np.asarray(new[name], dtype=np.float32) - base[name] for name in coding.shapes}
    difference = encode(change, coding.shapes, coding.difference)
    return Coded(apply_difference(difference, base, coding), difference)


def apply_difference(difference: bytes, base: Arrays, coding: Coding) -> bytes:
    """The whole model's bytes; raises `ProtocolError` where the difference is none or leads out of float32's range."""
    change = decode(difference, coding.shapes, coding.difference)
    with np.errstate(over="ignore"):
        moved: dict[str, NDArray[Any]] = {name: base[name] + array for name, array in change.items()}
    try:
        return encode(moved, coding.shapes, coding.whole, compress=False)
    except InvalidValueError as error:
        raise ProtocolError(f"a model's difference leads out of range: {error}") from error
