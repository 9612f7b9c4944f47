"""Scores of neurons on their way up, and rankings of neurons on their way down. Decoding is total.

Scores are tensor bytes (float16, a scale for each group) of a vector a group, in layout order. A ranking lists, for
each group, those of its neurons that the fleet trains, as little-endian unsigned 32-bit integers, the best first: a
device of any width keeps as many from its front.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol import tensor_codec
from wire_protocol.errors import ProtocolError
from wire_protocol.flat_arrays import FlatArrays
from wire_protocol.layout import Layout
from wire_protocol.tensor_codec import Codec

Scores = Mapping[str, NDArray[Any]]
"""For each group a score of every neuron, float [group size], none negative."""

_CODEC = Codec("float16")
_INDEX = np.dtype("<u4")


def encode_scores(layout: Layout, scores: Scores) -> bytes:
    """Tensor bytes of the scores of all groups; raises `InvalidValueError` where one is not finite."""
    return tensor_codec.encode({name: scores[name] for name in layout.group_sizes}, _shapes(layout), _CODEC)


def scores_size(layout: Layout) -> int:
    """Bytes of `encode_scores`, at most."""
    return tensor_codec.largest_size(_shapes(layout), _CODEC)


def decode_scores(layout: Layout, encoded: bytes) -> FlatArrays:
    """The scores; raises `ProtocolError` on other lengths and on negative scores."""
    scores = tensor_codec.decode(encoded, _shapes(layout), _CODEC)
    for group, values in scores.items():
        if values.min() < 0:
            raise ProtocolError(f"scores of {group} must be at least 0, got {values.min()}")
    return scores


def rank(scores: Scores) -> dict[str, NDArray[np.int64]]:
    """Neurons of each group, the largest score first; among equal scores the lower index comes first."""
    return {group: np.argsort(-np.asarray(values, np.float64), kind="stable") for group, values in scores.items()}


def encode_ranking(ranking: Mapping[str, NDArray[Any]]) -> dict[str, bytes]:
    """Bytes of every group's ranking."""
    return {group: np.asarray(order).astype(_INDEX).tobytes() for group, order in ranking.items()}


def decode_ranking(layout: Layout, encoded: Mapping[str, bytes]) -> dict[str, NDArray[np.int64]]:
    """The ranking; raises `ProtocolError` unless every group is there, with at least one neuron and none twice."""
    if set(encoded) != set(layout.group_sizes):
        raise ProtocolError(f"a ranking names groups {sorted(encoded)}, expected {sorted(layout.group_sizes)}")
    return {group: _order(group, size, encoded[group]) for group, size in layout.group_sizes.items()}


def _order(group: str, size: int, encoded: bytes) -> NDArray[np.int64]:
    count, rest = divmod(len(encoded), _INDEX.itemsize)
    if rest or not 1 <= count <= size:
        legal = f"{_INDEX.itemsize} for each of 1 to {size} neurons"
        raise ProtocolError(f"ranking of {group} has {len(encoded)} bytes, expected {legal}")
    order = np.frombuffer(encoded, _INDEX).astype(np.int64)
    if order.max() >= size or len(np.unique(order)) < count:
        raise ProtocolError(f"ranking of {group} must name neurons from 0 to {size - 1}, each at most once")
    return order


def _shapes(layout: Layout) -> dict[str, tuple[int, ...]]:
    return {group: (size,) for group, size in layout.group_sizes.items()}
