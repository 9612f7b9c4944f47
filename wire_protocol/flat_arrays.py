"""Named arrays that lie end to end in one vector.

Small models have dozens of parameters of a few hundred entries. Whoever takes all entries alike takes the vector, and
pays for its length and not for the number of arrays; whoever wants an array by its name gets a view.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class FlatArrays(Mapping[str, NDArray[np.float32]]):
    """Views, by name, of the float32 `vector`, whose length is the sum of the sizes of `shapes`, in their order."""

    def __init__(self, vector: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.vector = vector
        self.shapes = shapes
        self._views: dict[str, NDArray[Any]] | None = None

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if self._views is None:
            self._views = split(self.vector, self.shapes)
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


def split(vector: NDArray[Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Views of consecutive entries of the vector, in the given shapes."""
    views, offset = {}, 0
    for name, shape in shapes.items():
        size = prod(shape)
        views[name] = vector[offset : offset + size].reshape(shape)
        offset += size
    return views
