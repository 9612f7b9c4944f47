"""Values of several updates at once: those of one shape and codec are decoded together. Pure.

Which ones are changes none of them, bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from wire_protocol.flat_arrays import FlatArrays
from wire_protocol.layout import Layout
from wire_protocol.sub_model import sub_shapes
from wire_protocol.tensor_codec import Codec, decode_alike

Coded = tuple[Mapping[str, int], Codec, bytes]
"""The neurons that a sub-model keeps of each group, and its values' codec and bytes."""


def decode_values(layout: Layout, coded: Sequence[Coded]) -> list[FlatArrays]:
    """The float32 values of each, in their order; raises `ProtocolError` where one cannot be decoded."""
    alike: dict[tuple[tuple[int, ...], Codec], list[int]] = {}
    for place, (widths, codec, _) in enumerate(coded):
        alike.setdefault((tuple([widths[group.name] for group in layout.groups]), codec), []).append(place)
    values: dict[int, FlatArrays] = {}
    for (_, codec), places in alike.items():
        shapes = sub_shapes(layout, coded[places[0]][0])
        values |= zip(places, decode_alike([coded[place][2] for place in places], shapes, codec), strict=True)
    return [values[place] for place in range(len(coded))]
