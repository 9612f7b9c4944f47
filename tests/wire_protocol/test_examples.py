from __future__ import annotations

import random
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wire_protocol.examples import Examples, ExamplesError, examples_from, load_examples, read_npz, require_fit

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 2, 1])


def write(path: Path, **arrays: Any) -> Path:
    with path.open("wb") as stream:
        np.savez(stream, **arrays)
    return path


def test_a_file_is_read_as_float32_and_int64(tmp_path: Path) -> None:
    examples = load_examples(write(tmp_path / "d.npz", x=X.astype(np.float64), y=Y.astype(np.uint8), device=Y))
    assert examples.x.dtype == np.float32
    assert examples.y.dtype == np.int64
    assert len(examples) == 4
    np.testing.assert_array_equal(examples.x, X)
    np.testing.assert_array_equal(examples.take(np.array([2, 0])).y, [2, 0])


def test_only_images_of_bytes_are_scaled() -> None:
    pixels = np.array([[0, 255], [51, 102]], dtype=np.uint8)
    np.testing.assert_allclose(examples_from({"x": pixels, "y": Y[:2]}, "d").x, [[0, 1], [0.2, 0.4]], rtol=1e-6)
    assert examples_from({"x": pixels.astype(np.int16), "y": Y[:2]}, "d").x.max() == 255
    assert examples_from({"x": pixels > 60, "y": Y[:2]}, "d").x.max() == 1


@pytest.mark.parametrize(
    ("arrays", "problem"),
    [
        ({"y": Y}, r"d has no array 'x', expected x and y, found \['y'\]"),
        ({"x": X}, "d has no array 'y'"),
        ({"x": X[0], "y": Y}, r"x in d has shape \(3,\)"),
        ({"x": X[:0], "y": Y[:0]}, r"x in d has shape \(0, 3\), expected .* at least one example"),
        ({"x": X, "y": Y[:3]}, r"y in d has shape \(3,\), expected \(4,\)"),
        ({"x": X, "y": Y[:, None]}, r"y in d has shape \(4, 1\)"),
        ({"x": X, "y": Y.astype(float)}, "y in d has type float64, expected integers"),
        ({"x": X, "y": Y > 1}, "y in d has type bool"),
        ({"x": X, "y": Y - 1}, "y in d holds label -1"),
        ({"x": X, "y": Y.astype(np.uint64) + np.uint64(2**63)}, "y in d holds label 9223372036854775808"),
        ({"x": X.astype("U3"), "y": Y}, "x in d has type <U3, expected numbers"),
        ({"x": X.astype(complex), "y": Y}, "x in d has type complex128"),
        ({"x": np.where(X == 5, np.nan, X), "y": Y}, "x in d holds NaN or infinity"),
        ({"x": np.where(X == 5, np.inf, X), "y": Y}, "x in d holds NaN or infinity"),
        ({"x": X.astype(np.float64) * 1e300, "y": Y}, "x in d holds NaN or infinity"),
    ],
)
def test_what_training_cannot_use_is_refused(arrays: dict[str, Any], problem: str) -> None:
    with pytest.raises(ExamplesError, match=problem):
        examples_from(arrays, "d")


def test_examples_must_fit_the_model() -> None:
    examples = Examples(X, Y)
    assert require_fit(examples, (3,), 3, "d") is examples
    with pytest.raises(ExamplesError, match=r"x in d has examples of shape \(3,\), expected \(1, 3\)"):
        require_fit(examples, (1, 3), 3, "d")
    with pytest.raises(ExamplesError, match="y in d holds label 2, expected labels from 0 to 1"):
        require_fit(examples, (3,), 2, "d")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExamplesError, match=r"no\.npz does not exist, expected an \.npz archive"):
        load_examples(tmp_path / "no.npz")


def test_a_single_array_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "d.npy", X)
    with pytest.raises(ExamplesError, match="is a single array"):
        load_examples(tmp_path / "d.npy")


def test_pickles_are_not_opened(tmp_path: Path) -> None:
    path = write(tmp_path / "d.npz", x=np.array([{"a": 1}], dtype=object), y=Y[:1])
    with pytest.raises(ExamplesError, match=r"d\.npz cannot be read as an \.npz archive .*: it holds Python objects"):
        load_examples(path)


@pytest.mark.parametrize("content", [b"", b"PK", b"PK\x03\x04broken", b"text", b"\x80\x04N."])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "d.npz"
    path.write_bytes(content)
    with pytest.raises(ExamplesError, match=r"cannot be read as an \.npz archive"):
        load_examples(path)


@pytest.mark.parametrize("content", [b"", b"# Fisherfleet", b"\x80\x04N."])
def test_a_file_of_another_kind_is_said_to_be_no_npz_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "README.md"
    path.write_bytes(content)
    with pytest.raises(ExamplesError, match=r"README\.md cannot be read .*: it is not an \.npz file$"):
        load_examples(path)


@pytest.mark.parametrize(
    "header", [b"{'descr': '<f4',\n", b"(" * 300, b"{'descr': '<f4', 'shape': (1000000000000000,)}"]
)
def test_an_array_with_a_made_up_header_is_refused(tmp_path: Path, header: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with pytest.raises(ExamplesError, match=r"cannot be read as an \.npz archive"):
        load_examples(tmp_path / "d.npz")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExamplesError, match="cannot be read"):
        load_examples(tmp_path)


def test_members_that_are_no_arrays_do_not_count(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "d.npz", "w") as archive:
        archive.writestr("x", "text")
        archive.writestr("y", "text")
    assert read_npz(tmp_path / "d.npz") == {}
    with pytest.raises(ExamplesError, match="has no array 'x'"):
        load_examples(tmp_path / "d.npz")


def test_reading_a_damaged_archive_is_total(tmp_path: Path) -> None:
    valid = write(tmp_path / "d.npz", x=X, y=Y).read_bytes()
    generator = random.Random(5)
    path = tmp_path / "damaged.npz"
    for _ in range(400):
        damaged = bytearray(valid[: generator.randint(1, len(valid))] if generator.random() < 0.2 else valid)
        for _ in range(generator.randint(1, 4)):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        with suppress(ExamplesError):
            read_npz(path)
