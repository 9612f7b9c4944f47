from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from server.bundle import open_bundle, read_weights
from server.errors import BundleError
from wire_protocol.bundle_manifest import bundle_id


def test_opens_what_is_whole(bundle_folder: Path, weights: dict) -> None:
    bundle = open_bundle(bundle_folder)
    assert bundle.id == bundle_id((bundle_folder / "manifest.json").read_bytes())
    assert list(bundle.weights) == ["w1", "b1", "w2", "b2"]
    for name, array in weights.items():
        np.testing.assert_array_equal(bundle.weights[name], array)


@pytest.mark.parametrize("name", ["manifest.json", "evaluate.onnx", "weights.safetensors"])
def test_names_a_missing_file(bundle_folder: Path, name: str) -> None:
    (bundle_folder / name).unlink()
    with pytest.raises(BundleError, match=name):
        open_bundle(bundle_folder)


@pytest.mark.parametrize("name", ["evaluate.onnx", "weights.safetensors"])
def test_one_flipped_bit_is_found(bundle_folder: Path, name: str) -> None:
    content = bytearray((bundle_folder / name).read_bytes())
    content[-1] ^= 1
    (bundle_folder / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} has SHA-256"):
        open_bundle(bundle_folder)


def test_a_manifest_that_is_no_manifest(bundle_folder: Path) -> None:
    (bundle_folder / "manifest.json").write_text("{}")
    with pytest.raises(BundleError, match="not a valid bundle manifest"):
        open_bundle(bundle_folder)


@pytest.mark.parametrize("name", ["../manifest.json", "other.onnx", "", "/etc/passwd"])
def test_only_named_files_have_a_path(bundle_folder: Path, name: str) -> None:
    assert open_bundle(bundle_folder).file(name) is None


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"w1": np.zeros((4, 2), np.float32)}, r"w1 in .* is float32 \(4, 2\), expected float32 \(4, 3\)"),
        ({"b2": np.zeros(2, np.float64)}, "b2 in .* is float64"),
        ({"b2": np.array([0, np.nan], np.float32)}, "b2 in .* holds NaN"),
        ({"extra": np.zeros(1, np.float32)}, "holds tensors .*extra"),
    ],
)
def test_weights_must_fit_the_layout(tmp_path: Path, layout: object, weights: dict, change: dict, text: str) -> None:
    path = tmp_path / "weights.safetensors"
    save_file(weights | change, path)
    with pytest.raises(BundleError, match=text):
        read_weights(path, layout)
