"""The labelled data that an emulated fleet trains on and the held-out examples that judge it.

Three sources: `digits` (scikit-learn's copy of the UCI optical digits), `fashion-mnist` (Xiao et al., 2017, in the IDX
format of LeCun's MNIST page) and `npz` (a user's own arrays). The same name, files and seed give the same `Dataset`.

Invariants: train and test are disjoint, finite, of one `input_shape`, and hold labels in [0, classes). Every bad input
raises `ExamplesError` with one line that says which file or array it is and what is expected.
"""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from wire_protocol.errors import require
from wire_protocol.examples import Examples, ExamplesError, examples_from, read_npz

DatasetName = Literal["digits", "fashion-mnist", "npz"]

FASHION_MNIST_FOLDER = Path("/usr/share/datasets/fashion-mnist")
"""Where the Debian package dataset-fashion-mnist installs its files."""

TEST_FRACTION = 0.2
MAX_CLASSES = 65_536
"""Labels are class numbers, not identifiers: a model has one output for each."""

_DIGITS_LARGEST_VALUE = 16
_IDX_IMAGES = 0x0803  # unsigned bytes (08) in 3 dimensions
_IDX_LABELS = 0x0801  # unsigned bytes in 1 dimension
_IMAGE_SHAPE = (28, 28)
_LARGEST_LABEL = 9


@dataclass(frozen=True)
class Dataset:
    """Examples to train and to test on; every example has shape `input_shape` and a label in [0, classes).

    `owners` is int64 of shape (len(train),): the number, from 0 without gaps, of the device that holds each training
    example, where the data says so (the natural split); otherwise None.
    """

    name: str
    train: Examples
    test: Examples
    owners: NDArray[np.int64] | None
    input_shape: tuple[int, ...]
    classes: int


def load_dataset(name: DatasetName, path: Path | None, seed: int) -> Dataset:
    """Load a data set; raises `ExamplesError` for bad data and `InvalidValueError` for a name or seed out of range.

    `path` is the .npz file of `npz`, or the folder of `fashion-mnist` (default: `FASHION_MNIST_FOLDER`); `digits` takes
    none. `seed` (at least 0) draws the held-out fifth where the source has no test examples of its own.
    """
    require(name in get_args(DatasetName), "dataset", name, " or ".join(get_args(DatasetName)))
    require(seed >= 0, "seed", seed, "at least 0")
    if name == "digits":
        if path is not None:
            raise ExamplesError(f"dataset digits reads no file, got data {path}; dataset npz reads your own")
        return _load_digits(seed)
    if name == "fashion-mnist":
        return _load_fashion_mnist(path if path is not None else FASHION_MNIST_FOLDER)
    if path is None:
        raise ExamplesError("dataset npz needs data: the path of an .npz archive with arrays x and y")
    return _load_npz(path, seed)


def _load_digits(seed: int) -> Dataset:
    bunch = load_digits()
    images = np.asarray(bunch.images, dtype=np.float32)[:, np.newaxis] / np.float32(_DIGITS_LARGEST_VALUE)
    examples = Examples(images, np.asarray(bunch.target, dtype=np.int64))
    train, test = _hold_out(examples.y, seed)
    return _dataset("digits", examples.take(train), examples.take(test))


def _load_fashion_mnist(folder: Path) -> Dataset:
    if not folder.is_dir():
        raise ExamplesError(
            f"{folder} is not a folder, expected the IDX files of Fashion-MNIST (apt install dataset-fashion-mnist)"
        )
    return _dataset("fashion-mnist", _read_idx_examples(folder, "train"), _read_idx_examples(folder, "t10k"))


def _read_idx_examples(folder: Path, part: str) -> Examples:
    images_file = _find_idx(folder, f"{part}-images-idx3-ubyte")
    labels_file = _find_idx(folder, f"{part}-labels-idx1-ubyte")
    images = _read_idx(images_file, _IDX_IMAGES, _IMAGE_SHAPE)
    labels = _read_idx(labels_file, _IDX_LABELS, ())
    if len(images) != len(labels):
        raise ExamplesError(f"{labels_file} has {len(labels)} labels, expected {len(images)} as in {images_file.name}")
    if labels.max() > _LARGEST_LABEL:
        raise ExamplesError(f"{labels_file} holds label {labels.max()}, expected labels from 0 to {_LARGEST_LABEL}")
    return Examples(images[:, np.newaxis].astype(np.float32) / np.float32(255), labels.astype(np.int64))


def _find_idx(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise ExamplesError(
        f"{folder} has no file {name} or {name}.gz, expected Fashion-MNIST (apt install dataset-fashion-mnist)"
    )


def _read_idx(path: Path, magic: int, item_shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Read an IDX file of unsigned bytes: big-endian magic, then one size a dimension, then exactly that many bytes."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (OSError, EOFError, zlib.error) as error:
        raise ExamplesError(f"{path} cannot be read as an IDX file: {error}") from error
    header = struct.Struct(f">{2 + len(item_shape)}I")
    if len(content) < header.size:
        raise ExamplesError(f"{path} has {len(content)} bytes, expected an IDX header of {header.size}")
    found_magic, count, *found_shape = header.unpack_from(content)
    if found_magic != magic:
        raise ExamplesError(f"{path} starts with {found_magic:#010x}, expected the IDX magic number {magic:#010x}")
    if tuple(found_shape) != item_shape or not count:
        expected = ", ".join(map(str, ("n", *item_shape)))
        raise ExamplesError(f"{path} has shape {(count, *found_shape)}, expected ({expected}) with n at least 1")
    size = header.size + count * prod(item_shape)
    if len(content) != size:
        raise ExamplesError(f"{path} has {len(content)} bytes, expected {size} for {count} items")
    return np.frombuffer(content, dtype=np.uint8, offset=header.size).reshape(count, *item_shape)


def _load_npz(path: Path, seed: int) -> Dataset:
    arrays = read_npz(path)
    examples = _npz_examples(arrays, "x", "y", path)
    owners = _device_numbers(arrays["device"], len(examples), path) if "device" in arrays else None
    if "x_test" in arrays or "y_test" in arrays:
        test = _npz_examples(arrays, "x_test", "y_test", path)
        _require_same_kind(arrays, path)
        _require_classes(examples, path)
        return _dataset("npz", examples, test, owners)
    train_indices, test_indices = _hold_out(examples.y if owners is None else owners, seed)
    if not len(test_indices):
        raise ExamplesError(
            f"{path} has too few examples to hold some out for testing: expected at least 3 of one "
            f"{'class' if owners is None else 'device'}, or arrays x_test and y_test"
        )
    _require_classes(examples, path)
    train_owners = None if owners is None else owners[train_indices]
    return _dataset("npz", examples.take(train_indices), examples.take(test_indices), train_owners)


def _npz_examples(arrays: Mapping[str, NDArray[Any]], x: str, y: str, path: Path) -> Examples:
    for name in (x, y):
        if name not in arrays:
            raise ExamplesError(f"{path} has no array {name!r}, expected {x} and {y}, found {sorted(arrays)}")
    source = str(path) if x == "x" else f"{path} (arrays {x} and {y})"
    examples = examples_from({"x": arrays[x], "y": arrays[y]}, source)
    if not prod(examples.x.shape[1:]):
        raise ExamplesError(f"{x} in {path} has shape {examples.x.shape}, expected examples with at least one value")
    if int(arrays[y].max()) >= MAX_CLASSES:
        largest = int(arrays[y].max())
        raise ExamplesError(f"{y} in {path} holds label {largest}, expected labels from 0 to {MAX_CLASSES - 1}")
    return examples


def _require_same_kind(arrays: Mapping[str, NDArray[Any]], path: Path) -> None:
    train, test = arrays["x"], arrays["x_test"]
    if train.shape[1:] != test.shape[1:]:
        raise ExamplesError(
            f"x_test in {path} has examples of shape {test.shape[1:]}, expected {train.shape[1:]} as in x"
        )
    if (train.dtype == np.uint8) != (test.dtype == np.uint8):
        raise ExamplesError(f"x_test in {path} has type {test.dtype}, expected {train.dtype} as x (uint8 is scaled)")


def _device_numbers(device: NDArray[Any], examples: int, path: Path) -> NDArray[np.int64]:
    """Number the names or integers in `device` from 0, in sorted order."""
    if device.shape != (examples,):
        raise ExamplesError(f"device in {path} has shape {device.shape}, expected ({examples},), one entry an example")
    if device.dtype.kind not in "iuUS":
        raise ExamplesError(f"device in {path} has type {device.dtype}, expected integers or strings")
    return np.unique(device, return_inverse=True)[1].astype(np.int64)


def _hold_out(strata: NDArray[np.int64], seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted indices to train and to test on: a random fifth (rounded) of each stratum, never all of it, is tested."""
    generator = np.random.default_rng(seed)
    tested = np.zeros(len(strata), dtype=np.bool_)
    for stratum in np.unique(strata):
        members = generator.permutation(np.flatnonzero(strata == stratum))
        tested[members[: round(len(members) * TEST_FRACTION)]] = True
    return np.flatnonzero(~tested), np.flatnonzero(tested)


def _require_classes(examples: Examples, path: Path) -> None:
    labels = np.unique(examples.y)
    if len(labels) < 2:
        raise ExamplesError(f"y in {path} holds only label {labels[0]}, expected at least 2 different labels")


def _dataset(name: str, train: Examples, test: Examples, owners: NDArray[np.int64] | None = None) -> Dataset:
    classes = max(2, 1 + int(max(train.y.max(), test.y.max())))
    return Dataset(name, train, test, owners, train.x.shape[1:], classes)
