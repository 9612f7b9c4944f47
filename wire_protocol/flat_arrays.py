"""Named arrays that lie end to end in one vector.

Small models have dozens of parameters of a few hundred entries. Whoever takes all entries alike takes the vector, and
pays for its length and not for the number of arrays; whoever wants an array by its name gets a view.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray


class FlatArrays(Mapping[str, NDArray[np.float32]]):
    """Views, by name, of the float32 `vector`, whose length is the sum of the sizes of `shapes`, in their order."""

    def __init__(self, vector: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self._vector: NDArray[np.float32] | None = vector
        self.shapes = shapes
        self._views: dict[str, NDArray[Any]] | None = None

    @property
    def vector(self) -> NDArray[np.float32]:
        """All entries end to end."""
        assert self._vector is not None
        return self._vector

    @property
    def sent(self) -> NDArray[np.float32]:
        """Entries end to end, without those that are left out and 0."""
        return self.vector

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        if self._views is None:
            self._views = split(self.vector, self.shapes)
        return self._views[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.shapes)

    def __len__(self) -> int:
        return len(self.shapes)


class SparseArrays(FlatArrays):
    """The same where the vector's entries at some `places`, ascending, are the float32 values `sent`, and all others 0.

    The vector is made when it is asked for; who can do without pays for the number of what was sent.
    """

    def __init__(self, places: NDArray[Any], sent: NDArray[np.float32], shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.places = places
        self._sent = sent
        self.shapes = shapes
        self._vector = None
        self._views = None

    @property
    def vector(self) -> NDArray[np.float32]:
        """All entries end to end."""
        if self._vector is None:
            self._vector = np.zeros(sum(map(prod, self.shapes.values())), dtype=np.float32)
            self._vector[self.places] = self._sent
        return self._vector

    @property
    def sent(self) -> NDArray[np.float32]:
        """Entries at `places`."""
        return self._sent


def sent_entries(arrays: Mapping[str, NDArray[Any]]) -> Iterable[NDArray[Any]]:
    """All entries, in as few arrays as there are; where they are flat without those that are left out and 0."""
    return (arrays.sent,) if isinstance(arrays, FlatArrays) else arrays.values()


def split(vector: NDArray[Any], shapes: Mapping[str, tuple[int, ...]]) -> dict[str, NDArray[Any]]:
    """Views of consecutive entries of the vector, in the given shapes."""
    views, offset = {}, 0
    for name, shape in shapes.items():
        size = prod(shape)
        views[name] = vector[offset : offset + size].reshape(shape)
        offset += size
    return views
