from pathlib import Path

import numpy as np
import pytest

from server.errors import BundleError
from server.model_files import ModelFiles


def test_a_version_comes_back_as_it_was(tmp_path: Path, layout: object, weights: dict) -> None:
    files = ModelFiles(tmp_path, "run")
    path = files.save_version(1, weights)
    assert path == tmp_path / "models" / "run" / "1.safetensors"
    loaded = ModelFiles(tmp_path, "run").load_version(1, layout)
    assert {name: array.tolist() for name, array in loaded.items()} == {n: a.tolist() for n, a in weights.items()}


def test_arrays_that_are_views_are_saved_by_value(tmp_path: Path, layout: object, weights: dict) -> None:
    files = ModelFiles(tmp_path, "run")
    files.save_version(1, weights | {"w1": np.asfortranarray(weights["w1"])})
    np.testing.assert_array_equal(files.load_version(1, layout)["w1"], weights["w1"])


def test_the_newest_two_versions_are_kept(tmp_path: Path, weights: dict) -> None:
    files = ModelFiles(tmp_path, "run")
    for version in range(1, 6):
        files.save_version(version, weights)
    assert sorted(path.name for path in (tmp_path / "models" / "run").iterdir()) == ["4.safetensors", "5.safetensors"]


def test_a_lost_version_is_named(tmp_path: Path, layout: object) -> None:
    with pytest.raises(BundleError, match=r"7\.safetensors cannot be read"):
        ModelFiles(tmp_path, "run").load_version(7, layout)


def test_moments_come_back_with_their_version_and_leave_with_it(tmp_path: Path, weights: dict) -> None:
    files = ModelFiles(tmp_path, "run")
    for version in range(1, 6):
        moments = {f"momentum/{name}": array + np.float64(version) / 3 for name, array in weights.items()}
        files.save_version(version, weights, moments)
    found = ModelFiles(tmp_path, "run").load_moments(5)
    assert {key: array.tobytes() for key, array in found.items()} == {k: a.tobytes() for k, a in moments.items()}
    names = sorted(path.name for path in (tmp_path / "models" / "run").iterdir())
    assert names == ["4.moments", "4.safetensors", "5.moments", "5.safetensors"]


def test_a_version_without_moments_has_none_even_where_it_had_some_before(tmp_path: Path, weights: dict) -> None:
    files = ModelFiles(tmp_path, "run")
    files.save_version(1, weights, {"momentum/w1": np.ones(2)})
    files.save_version(1, weights)
    assert files.load_moments(1) == {}


def test_moments_that_are_not_whole_are_named(tmp_path: Path, weights: dict) -> None:
    files = ModelFiles(tmp_path, "run")
    files.save_version(1, weights, {"momentum/w1": np.ones(2)})
    path = tmp_path / "models" / "run" / "1.moments"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"1\.moments cannot be read"):
        files.load_moments(1)


def test_as_many_encoded_models_as_asked_for_can_be_downloaded(tmp_path: Path) -> None:
    encoded = ModelFiles(tmp_path, "run", offered=3).encoded
    digests = [encoded.publish(content) for content in (b"one", b"two", b"three", b"four")]
    assert [encoded.path_of(digest) is not None for digest in digests] == [False, True, True, True]
