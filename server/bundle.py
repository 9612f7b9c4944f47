"""Open a bundle folder and believe nothing in it that its manifest's hashes do not cover.

Invariant: a `Bundle` value exists only when every file has the size and SHA-256 that the manifest names and the initial
weights are exactly the layout's parameters, float32 and finite.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from server.errors import BundleError
from wire_protocol import bundle_manifest
from wire_protocol.bundle_manifest import BundleFile, BundleManifest
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import Layout


@dataclass(frozen=True)
class Bundle:
    """A verified bundle: `id` is the SHA-256 of its manifest (hexadecimal), `weights` the initial float32 model."""

    folder: Path
    id: str
    manifest: BundleManifest
    weights: Mapping[str, NDArray[Any]]

    @property
    def layout(self) -> Layout:
        """The model's parameters and neuron groups."""
        return self.manifest.layout

    def file(self, name: str) -> Path | None:
        """Path of the manifest or of a file that it names, None for anything else."""
        known = name == bundle_manifest.MANIFEST_NAME or name in self.manifest.files
        return self.folder / name if known else None

    def sha256_of(self, name: str) -> str:
        """Hexadecimal SHA-256 of the manifest or of a file that it names."""
        return self.id if name == bundle_manifest.MANIFEST_NAME else self.manifest.files[name].sha256


def open_bundle(folder: Path) -> Bundle:
    """Read and verify a bundle folder; raises `BundleError`."""
    path = folder / bundle_manifest.MANIFEST_NAME
    try:
        content = path.read_bytes()
    except OSError as error:
        raise BundleError(f"bundle {folder} has no readable {path.name} ({error.strerror})") from error
    try:
        manifest = bundle_manifest.decode_manifest(content)
    except ProtocolError as error:
        raise BundleError(f"{path}: {error}") from error
    for name, expected in manifest.files.items():
        _verify(folder / name, expected)
    return Bundle(folder, bundle_manifest.bundle_id(content), manifest, _weights(folder, manifest))


def read_weights(path: Path, layout: Layout) -> dict[str, NDArray[Any]]:
    """Read a safetensors file that must hold exactly the layout's parameters, float32 and finite."""
    try:
        arrays = safetensors.numpy.load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise BundleError(f"{path} cannot be read as safetensors: {error}") from error
    shapes = {parameter.name: parameter.shape for parameter in layout.parameters}
    if set(arrays) != set(shapes):
        raise BundleError(f"{path} holds tensors {sorted(arrays)}, expected {sorted(shapes)}")
    for name, shape in shapes.items():
        array = arrays[name]
        if array.shape != shape or array.dtype != np.float32:
            raise BundleError(f"{name} in {path} is {array.dtype} {array.shape}, expected float32 {shape}")
        if not np.isfinite(array).all():
            raise BundleError(f"{name} in {path} holds NaN or infinity, expected finite values")
    return {name: arrays[name] for name in shapes}


def _weights(folder: Path, manifest: BundleManifest) -> dict[str, NDArray[Any]]:
    if bundle_manifest.WEIGHTS not in manifest.files:
        raise BundleError(f"bundle {folder} names no {bundle_manifest.WEIGHTS}, expected the initial weights")
    return read_weights(folder / bundle_manifest.WEIGHTS, manifest.layout)


def _verify(path: Path, expected: BundleFile) -> None:
    try:
        with path.open("rb") as file:
            digest = file_digest(file, "sha256").hexdigest()
            size = file.tell()
    except OSError as error:
        raise BundleError(f"bundle file {path} cannot be read ({error.strerror})") from error
    if (digest, size) != (expected.sha256, expected.size):
        raise BundleError(
            f"bundle file {path} has SHA-256 {digest} and {size} bytes, "
            f"expected {expected.sha256} and {expected.size}: export the bundle again"
        )
