"""Labelled examples as both ends read them from a NumPy archive: `x` float32 and `y` int64.

`x` of type uint8 is divided by 255, as images are; every other number type is taken as it is.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.errors import FisherfleetError


class ExamplesError(FisherfleetError):
    """A data file is missing, or is not what training needs; the text says which and what is expected."""


@dataclass(frozen=True)
class Examples:
    """`x` is float32 of shape (n, *input_shape); `y` is int64 of shape (n,) with values in [0, classes)."""

    x: NDArray[np.float32]
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """The examples at these indices."""
        return Examples(self.x[indices], self.y[indices])


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file; nothing is unpickled. Raises `ExamplesError`."""
    try:
        with path.open("rb") as stream:
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ExamplesError(f"{path} is a single array, expected an .npz archive with arrays x and y")
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ExamplesError(f"{path} does not exist, expected an .npz archive with arrays x and y") from error
    except (OSError, ValueError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:
        raise ExamplesError(f"{path} cannot be read as an .npz archive with arrays x and y: {error}") from error
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def load_examples(path: Path) -> Examples:
    """Read `x` and `y` from an .npz file and check them; raises `ExamplesError`."""
    return examples_from(read_npz(path), str(path))


def examples_from(arrays: dict[str, NDArray[Any]], source: str) -> Examples:
    """Check and convert arrays `x` and `y`; `source` names them in errors."""
    for name in ("x", "y"):
        if name not in arrays:
            raise ExamplesError(f"{source} has no array {name!r}, expected x and y, found {sorted(arrays)}")
    x, y = arrays["x"], arrays["y"]
    if x.ndim < 2 or not len(x):
        raise ExamplesError(f"x in {source} has shape {x.shape}, expected (examples, ...) with at least one example")
    if y.shape != (len(x),):
        raise ExamplesError(f"y in {source} has shape {y.shape}, expected ({len(x)},), one label an example of x")
    if y.dtype.kind not in "iu":
        raise ExamplesError(f"y in {source} has type {y.dtype}, expected integers")
    for label in (int(y.min()), int(y.max())):
        if not 0 <= label <= np.iinfo(np.int64).max:
            raise ExamplesError(f"y in {source} holds label {label}, expected labels from 0 to 2^63 - 1")
    if x.dtype.kind not in "iufb":
        raise ExamplesError(f"x in {source} has type {x.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        scaled = x.astype(np.float32) / np.float32(255 if x.dtype == np.uint8 else 1)
    if not np.isfinite(scaled).all():
        raise ExamplesError(f"x in {source} holds NaN or infinity, expected finite float32 numbers")
    return Examples(scaled, y.astype(np.int64))


def require_fit(examples: Examples, input_shape: tuple[int, ...], classes: int, source: str) -> Examples:
    """Return `examples` where a model of this input shape and number of classes can take them, else `ExamplesError`."""
    if examples.x.shape[1:] != input_shape:
        raise ExamplesError(f"x in {source} has examples of shape {examples.x.shape[1:]}, expected {input_shape}")
    largest = int(examples.y.max())
    if largest >= classes:
        raise ExamplesError(f"y in {source} holds label {largest}, expected labels from 0 to {classes - 1}")
    return examples
