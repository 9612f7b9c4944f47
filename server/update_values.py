"""Values of several updates at once: those of one shape and codec are decoded together. Pure.

Which ones are changes none of them, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from wire_protocol.flat_arrays import FlatArrays
from wire_protocol.layout import Layout
from wire_protocol.sub_model import sub_shapes
from wire_protocol.tensor_codec import Codec, decode_alike

Coded = tuple[Mapping[str, int], Codec, bytes]
"""The neurons that a sub-model keeps of each group, and its values' codec and bytes."""


def decode_values(layout: Layout, coded: Sequence[Coded]) -> Iterator[FlatArrays]:
    """The float32 values of each, in their order; raises `ProtocolError` where one of the next cannot be decoded."""
    alike: dict[tuple[tuple[int, ...], Codec], list[Coded]] = {}
    kinds = []
    for one in coded:
        widths, codec, _ = one
        kinds.append(alike.setdefault((tuple([widths[group.name] for group in layout.groups]), codec), []))
        kinds[-1].append(one)
    decoded = {id(kind): _decoded(layout, kind) for kind in alike.values()}
    return (next(decoded[id(kind)]) for kind in kinds)


def _decoded(layout: Layout, coded: Sequence[Coded]) -> Iterator[FlatArrays]:
    widths, codec, _ = coded[0]
    return decode_alike([values for *_, values in coded], sub_shapes(layout, widths), codec)
