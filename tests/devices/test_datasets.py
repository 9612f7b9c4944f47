import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from devices.emulation.datasets import FASHION_MNIST_FOLDER, load_dataset
from wire_protocol.errors import InvalidValueError
from wire_protocol.examples import ExamplesError

X = np.linspace(0, 1, 80, dtype=np.float32).reshape(20, 2, 2)
Y = np.arange(20) % 4
IMAGES = np.random.default_rng(0).integers(0, 256, (6, 28, 28), dtype=np.uint8)
LABELS = np.array([0, 3, 1, 2, 0, 5], dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return struct.pack(f">{1 + array.ndim}I", 0x0800 + array.ndim, *array.shape) + array.tobytes()


def write_idx_folder(folder: Path) -> Path:
    """A Fashion-MNIST of six training and four test examples, half of it compressed."""
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(idx(IMAGES)))
    (folder / "train-labels-idx1-ubyte").write_bytes(idx(LABELS))
    (folder / "t10k-images-idx3-ubyte").write_bytes(idx(IMAGES[:4]))
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(LABELS[:4])))
    return folder


def write_npz(folder: Path, **arrays: np.ndarray) -> Path:
    path = folder / "own.npz"
    np.savez_compressed(path, **arrays)
    return path


def rows(x: np.ndarray) -> list[tuple[float, ...]]:
    return sorted(map(tuple, x.reshape(len(x), -1).tolist()))


def test_digits_are_scaled_and_split_by_class():
    dataset = load_dataset("digits", None, seed=3)
    assert dataset.input_shape == (1, 8, 8)
    assert dataset.classes == 10
    assert dataset.owners is None
    assert dataset.train.x.dtype == np.float32
    assert dataset.train.x.shape[1:] == dataset.test.x.shape[1:] == (1, 8, 8)
    assert rows(np.concatenate([dataset.train.x, dataset.test.x])) == rows(load_digits().images.astype("f4") / 16)
    in_train, in_test = np.bincount(dataset.train.y), np.bincount(dataset.test.y)
    assert np.abs(in_test / (in_train + in_test) - 0.2).max() < 0.005


def test_the_seed_decides_what_is_held_out():
    first, again, other = (load_dataset("digits", None, seed).test.x for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_idx_files_are_read_plain_and_compressed(tmp_path):
    dataset = load_dataset("fashion-mnist", write_idx_folder(tmp_path), seed=0)
    assert np.array_equal(dataset.train.x, IMAGES[:, None].astype(np.float32) / np.float32(255))
    assert np.array_equal(dataset.train.y, LABELS)
    assert np.array_equal(dataset.test.y, LABELS[:4])
    assert (dataset.input_shape, dataset.classes, dataset.owners) == ((1, 28, 28), 6, None)


@pytest.mark.skipif(not FASHION_MNIST_FOLDER.is_dir(), reason="needs the Debian package dataset-fashion-mnist")
def test_the_debian_package_is_the_default():
    dataset = load_dataset("fashion-mnist", None, seed=0)
    assert (len(dataset.train), len(dataset.test), dataset.classes) == (60_000, 10_000, 10)
    assert np.bincount(dataset.train.y).tolist() == [6000] * 10
    assert (dataset.train.x.min(), dataset.train.x.max()) == (0.0, 1.0)


@pytest.mark.parametrize("part", ["train-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz", "train-labels-idx1-ubyte"])
def test_a_missing_idx_file_is_named_with_its_package(tmp_path, part):
    (write_idx_folder(tmp_path) / part).unlink()
    with pytest.raises(ExamplesError, match=rf"no file {part.removesuffix('.gz')}.*apt install dataset-fashion-mnist"):
        load_dataset("fashion-mnist", tmp_path, seed=0)


def test_a_missing_idx_folder_is_named_with_its_package(tmp_path):
    with pytest.raises(ExamplesError, match=r"nowhere is not a folder.*apt install dataset-fashion-mnist"):
        load_dataset("fashion-mnist", tmp_path / "nowhere", seed=0)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t10k-images-idx3-ubyte", b"", "has 0 bytes, expected an IDX header of 16"),
        ("t10k-images-idx3-ubyte", idx(LABELS) + bytes(99), "starts with 0x00000801, expected .* 0x00000803"),
        ("t10k-images-idx3-ubyte", idx(IMAGES[:, :27]), r"has shape \(6, 27, 28\), expected \(n, 28, 28\)"),
        ("t10k-images-idx3-ubyte", idx(IMAGES[:0]), r"has shape \(0, 28, 28\)"),
        ("t10k-images-idx3-ubyte", idx(IMAGES)[:-1], "has 4719 bytes, expected 4720 for 6 items"),
        ("t10k-images-idx3-ubyte", idx(IMAGES) + b"x", "has 4721 bytes, expected 4720 for 6 items"),
        ("train-labels-idx1-ubyte", idx(LABELS[:5]), "has 5 labels, expected 6 as in train-images"),
        ("train-labels-idx1-ubyte", idx(LABELS + np.uint8(5)), "holds label 10, expected labels from 0 to 9"),
        ("train-labels-idx1-ubyte", idx(LABELS[:0]), r"has shape \(0,\), expected \(n\)"),
        ("train-images-idx3-ubyte.gz", b"not gzip", "cannot be read as an IDX file"),
        ("train-images-idx3-ubyte.gz", gzip.compress(idx(IMAGES))[:-20], "cannot be read as an IDX file"),
    ],
)
def test_a_bad_idx_file_is_an_error_that_says_what_is_expected(tmp_path, name, content, message):
    (write_idx_folder(tmp_path) / name).write_bytes(content)
    with pytest.raises(ExamplesError, match=f"{name}.* {message}") as raised:
        load_dataset("fashion-mnist", tmp_path, seed=0)
    assert "\n" not in str(raised.value)


def test_own_arrays_are_split_by_class(tmp_path):
    dataset = load_dataset("npz", write_npz(tmp_path, x=X, y=Y), seed=0)
    assert (dataset.input_shape, dataset.classes, dataset.owners) == ((2, 2), 4, None)
    assert np.bincount(dataset.test.y).tolist() == [1, 1, 1, 1]
    assert rows(np.concatenate([dataset.train.x, dataset.test.x])) == rows(X)


def test_own_bytes_are_scaled_as_images(tmp_path):
    dataset = load_dataset("npz", write_npz(tmp_path, x=np.full((20, 3), 255, dtype=np.uint8), y=Y), seed=0)
    assert (dataset.train.x == 1).all()


@pytest.mark.parametrize(
    "names", [np.array(["shed", "attic", "barn"]), np.array([70, -5, 12]), np.array([b"z", b"a", b"k"])]
)
def test_a_natural_split_holds_some_of_each_device_out(tmp_path, names):
    device = names[np.array([0] * 10 + [1] * 9 + [2])]
    dataset = load_dataset("npz", write_npz(tmp_path, x=X, y=Y, device=device), seed=0)
    owner_of = {tuple(x.ravel().tolist()): name for x, name in zip(X, device, strict=True)}
    named = [owner_of[tuple(x.ravel().tolist())] for x in dataset.train.x]
    assert named == [sorted(names.tolist())[number] for number in dataset.owners]
    assert np.bincount(dataset.owners).tolist() == [7, 1, 8]
    assert dataset.owners.dtype == np.int64


def test_own_test_arrays_are_used_as_they_are(tmp_path):
    path = write_npz(tmp_path, x=X, y=Y, x_test=X[:3], y_test=np.array([6, 0, 1]), device=Y)
    dataset = load_dataset("npz", path, seed=0)
    assert np.array_equal(dataset.train.x, X)
    assert np.array_equal(dataset.test.x, X[:3])
    assert np.array_equal(dataset.owners, Y)
    assert dataset.classes == 7


WITH_NAN = np.where(np.arange(80).reshape(X.shape) == 5, np.nan, X)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"x": X}, "no array 'y', expected x and y"),
        ({"x": X, "y": np.zeros(20, dtype=int)}, "holds only label 0, expected at least 2 different labels"),
        ({"y": Y}, "no array 'x', expected x and y"),
        ({"x": X[0, 0], "y": Y[:2]}, r"x in .* has shape \(2,\), expected \(examples, ...\)"),
        ({"x": X[:0], "y": Y[:0]}, "at least one example"),
        ({"x": X[:, :0], "y": Y}, r"x in .* has shape \(20, 0, 2\), expected examples with at least one value"),
        ({"x": X, "y": Y[:19]}, r"y in .* has shape \(19,\), expected \(20,\)"),
        ({"x": X, "y": Y.astype(float)}, "y in .* has type float64, expected integers"),
        ({"x": X, "y": Y - 1}, "y in .* holds label -1, expected labels from 0"),
        ({"x": X, "y": Y + 65_533}, "y in .* holds label 65536, expected labels from 0 to 65535"),
        ({"x": X, "y": Y.astype(np.uint64) + np.uint64(2**63)}, "y in .* holds label 9223372036854775808, expected"),
        ({"x": WITH_NAN, "y": Y}, "x in .* holds NaN or infinity"),
        ({"x": X.astype(float) * 1e300, "y": Y}, "x in .* holds NaN or infinity"),
        ({"x": X.astype(str), "y": Y}, "x in .* has type <U32, expected numbers"),
        ({"x": X, "y": Y, "device": Y[:3]}, r"device in .* has shape \(3,\), expected \(20,\)"),
        ({"x": X, "y": Y, "device": Y / 2}, "device in .* has type float64, expected integers or strings"),
        ({"x": X, "y": Y, "x_test": X}, "no array 'y_test', expected x_test and y_test"),
        ({"x": X, "y": Y, "y_test": Y}, "no array 'x_test', expected x_test and y_test"),
        (
            {"x": X, "y": Y, "x_test": X[:, :1], "y_test": Y},
            r"x_test in .* of shape \(1, 2\), expected \(2, 2\) as in x",
        ),
        ({"x": X, "y": Y, "x_test": X.astype("u1"), "y_test": Y}, "x_test in .* has type uint8, expected float32 as x"),
        ({"x": X, "y": Y, "x_test": WITH_NAN, "y_test": Y}, "arrays x_test and y_test.* holds NaN"),
        ({"x": X[:4], "y": Y[:4]}, "too few examples .* at least 3 of one class"),
        ({"x": X[:4], "y": Y[:4] * 0, "device": Y[:4]}, "too few examples .* at least 3 of one device"),
    ],
)
def test_bad_arrays_are_an_error_that_says_what_is_expected(tmp_path, arrays, message):
    path = write_npz(tmp_path, **arrays)
    with pytest.raises(ExamplesError, match=message) as raised:
        load_dataset("npz", path, seed=0)
    assert "own.npz" in str(raised.value)
    assert "\n" not in str(raised.value)


def encrypted(archive: bytes) -> bytes:
    """The archive with the flag of encryption set for its first file, in the central directory."""
    flags = archive.index(b"PK\x01\x02") + 8
    return archive[:flags] + b"\x01" + archive[flags + 1 :]


def test_a_file_that_is_no_archive_is_named(tmp_path):
    path = write_npz(tmp_path, x=X, y=Y)
    whole = path.read_bytes()
    np.save(tmp_path / "single.npy", X)
    contents = [b"", b"text", b"PK\x03\x04 broken", whole[:-30], encrypted(whole), whole[:80] + bytes(40) + whole[120:]]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(ExamplesError, match=r"own\.npz cannot be read as an \.npz archive"):
            load_dataset("npz", path, seed=0)
    with pytest.raises(ExamplesError, match=r"single\.npy is a single array"):
        load_dataset("npz", tmp_path / "single.npy", seed=0)
    with pytest.raises(ExamplesError, match=r"absent\.npz does not exist"):
        load_dataset("npz", tmp_path / "absent.npz", seed=0)
    with pytest.raises(ExamplesError, match=r"cannot be read as an \.npz archive"):
        load_dataset("npz", tmp_path, seed=0)


def test_a_path_where_none_is_read_or_none_where_one_is_needed_is_an_error(tmp_path):
    with pytest.raises(ExamplesError, match="digits reads no file"):
        load_dataset("digits", tmp_path, seed=0)
    with pytest.raises(ExamplesError, match="npz needs data"):
        load_dataset("npz", None, seed=0)


def test_arguments_out_of_range_are_named():
    with pytest.raises(InvalidValueError, match="dataset must be digits or fashion-mnist or npz, got 'cifar'"):
        load_dataset("cifar", None, seed=0)
    with pytest.raises(InvalidValueError, match="seed must be at least 0, got -1"):
        load_dataset("digits", None, seed=-1)
