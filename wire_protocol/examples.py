"""Examples as both ends read them from a NumPy archive: `x` float32, and `y` int64 labels or float32 targets.

`x` of type uint8 is divided by 255, as images are; every other number type is taken as it is. Without `y` the
inputs are the targets, as an auto-encoder needs it.
"""

from __future__ import annotations

import zipfile
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wire_protocol.bundle_manifest import BundleManifest
from wire_protocol.errors import FisherfleetError


class ExamplesError(FisherfleetError):
    """A data file is missing, or is not what training needs; the text says which and what is expected."""


@dataclass(frozen=True)
class Examples:
    """`x` is float32 of shape (n, *input_shape).

    `y` is int64 of shape (n,) with values in [0, classes), or float32 of shape (n, *output_shape), or `x` itself.
    """

    x: NDArray[np.float32]
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    def take(self, indices: NDArray[np.int64]) -> Examples:
        """The examples at these indices."""
        x = self.x[indices]
        return Examples(x, x if self.y is self.x else self.y[indices])


_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, MemoryError, TokenError, zipfile.BadZipFile, zlib.error)
"""What NumPy and the modules below it raise for archives that are damaged or made up."""
_MAGIC = (b"PK\x03\x04", b"PK\x05\x06", b"\x93NUM")
"""How archives, empty ones and single arrays begin; NumPy takes all else for a pickle."""


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """All arrays of an .npz file; nothing is unpickled. Raises `ExamplesError`."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC[0])) not in _MAGIC:
                raise ValueError("it is not an .npz file")
            stream.seek(0)
            archive = np.load(stream, allow_pickle=False)
            if not isinstance(archive, np.lib.npyio.NpzFile):
                raise ExamplesError(f"{path} is a single array, expected an .npz archive with arrays x and y")
            with archive:
                arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise ExamplesError(f"{path} does not exist, expected an .npz archive with arrays x and y") from error
    except _UNREADABLE as error:
        objects = "allow_pickle" in str(error)  # NumPy's advice, which nobody should follow
        reason = "it holds Python objects, expected numbers" if objects else error
        raise ExamplesError(f"{path} cannot be read as an .npz archive with arrays x and y: {reason}") from error
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def load_examples(path: Path, *, labelled: bool = True) -> Examples:
    """Read `x` and `y` from an .npz file and check them as `examples_from` does; raises `ExamplesError`."""
    return examples_from(read_npz(path), str(path), labelled=labelled)


def examples_from(arrays: dict[str, NDArray[Any]], source: str, *, labelled: bool = True) -> Examples:
    """Check and convert arrays `x` and `y`; `source` names them in errors.

    `labelled` asks for labels, integers of at least 0; else `y` may be numbers of any shape or be left out, and
    `fit_examples` says later what a bundle makes of it.
    """
    for name in ("x", "y") if labelled else ("x",):
        if name not in arrays:
            raise ExamplesError(f"{source} has no array {name!r}, expected x and y, found {sorted(arrays)}")
    x = arrays["x"]
    if x.ndim < 2 or not len(x):
        raise ExamplesError(f"x in {source} has shape {x.shape}, expected (examples, ...) with at least one example")
    y = arrays.get("y")
    if y is not None:
        y = _labels(y, len(x), source) if labelled else _targets(y, len(x), source)
    inputs = _finite_float32("x", x, source) / np.float32(255 if x.dtype == np.uint8 else 1)
    return Examples(inputs, inputs if y is None else y)


def _labels(y: NDArray[Any], count: int, source: str) -> NDArray[np.int64]:
    if y.shape != (count,):
        raise ExamplesError(f"y in {source} has shape {y.shape}, expected ({count},), one label an example of x")
    if y.dtype.kind not in "iu":
        raise ExamplesError(f"y in {source} has type {y.dtype}, expected integers")
    for label in (int(y.min()), int(y.max())):
        if not 0 <= label <= np.iinfo(np.int64).max:
            raise ExamplesError(f"y in {source} holds label {label}, expected labels from 0 to 2^63 - 1")
    return y.astype(np.int64)


def _targets(y: NDArray[Any], count: int, source: str) -> NDArray[Any]:
    if len(y.shape) < 1 or len(y) != count:
        raise ExamplesError(f"y in {source} has shape {y.shape}, expected ({count}, ...), one target an example of x")
    whole = y.ndim == 1 and y.dtype.kind in "iu"
    return y.astype(np.int64) if whole else _finite_float32("y", y, source)


def _finite_float32(name: str, array: NDArray[Any], source: str) -> NDArray[np.float32]:
    if array.dtype.kind not in "iufb":
        raise ExamplesError(f"{name} in {source} has type {array.dtype}, expected numbers")
    with np.errstate(over="ignore"):
        converted = array.astype(np.float32)
    if not np.isfinite(converted).all():
        raise ExamplesError(f"{name} in {source} holds NaN or infinity, expected finite float32 numbers")
    return converted


def require_fit(examples: Examples, input_shape: tuple[int, ...], classes: int, source: str) -> Examples:
    """Return `examples` where a model of this input shape and number of classes can take them, else `ExamplesError`."""
    _require_inputs(examples, input_shape, source)
    y = examples.y
    if y.dtype != np.int64 or y.ndim != 1:
        found = "no array 'y'" if y is examples.x else f"y of type {y.dtype} and shape {y.shape}"
        raise ExamplesError(f"{source} has {found}, expected integer labels of shape ({len(examples)},)")
    for label in (int(y.min(initial=0)), int(y.max(initial=0))):
        if not 0 <= label < classes:
            raise ExamplesError(f"y in {source} holds label {label}, expected labels from 0 to {classes - 1}")
    return examples


def in_range(examples: Examples, manifest: BundleManifest) -> Examples:
    """Those examples whose label or targets the bundle's model and loss can take; shapes and types are not looked at.

    For private runs: `ExamplesError` for one example's sake would tell of it.
    """
    y = examples.y
    if manifest.loss == "cross-entropy" and y.dtype == np.int64:
        fit = (y >= 0) & (y < manifest.classes)
    elif manifest.loss == "bce":
        fit = (y >= 0) & (y <= 1)
    else:
        return examples
    return examples if fit.all() else examples.take(np.flatnonzero(fit.reshape(len(y), -1).all(axis=1)))


def fit_examples(examples: Examples, manifest: BundleManifest, source: str) -> Examples:
    """The examples as the bundle's graphs take them; raises `ExamplesError` where they do not fit its model and loss.

    Float targets have the output's shape; inputs that stand for them, and single numbers, are reshaped to it.
    """
    if manifest.loss == "cross-entropy":
        return require_fit(examples, manifest.input_shape, manifest.classes, source)
    _require_inputs(examples, manifest.input_shape, source)
    y, shape = examples.y, (len(examples), *manifest.output_shape)
    if y.shape != shape and (y is examples.x or y.ndim == 1) and y.size == prod(shape):
        y = y.reshape(shape)
    if y.shape != shape:
        what = "no array 'y', and x" if y is examples.x else "y"
        raise ExamplesError(f"{source} has {what} of shape {y.shape}, expected targets of shape {shape}")
    lowest, highest = float(y.min(initial=0)), float(y.max(initial=0))
    if manifest.loss == "bce" and not 0 <= lowest <= highest <= 1:
        raise ExamplesError(f"y in {source} holds {lowest:g} to {highest:g}, expected targets from 0 to 1")
    return Examples(examples.x, y.astype(np.float32, copy=False))


def _require_inputs(examples: Examples, input_shape: tuple[int, ...], source: str) -> None:
    if examples.x.shape[1:] != input_shape:
        raise ExamplesError(f"x in {source} has examples of shape {examples.x.shape[1:]}, expected {input_shape}")
