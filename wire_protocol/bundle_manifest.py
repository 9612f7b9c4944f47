"""What a bundle is: its model, its files with their hashes, its layout. Written at export, read by both ends.

A bundle is named by the SHA-256 of its `manifest.json`, which names the SHA-256 of every other file: who trusts the
one hash can check all.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import PurePosixPath

import msgspec

from wire_protocol.errors import ProtocolError, require
from wire_protocol.layout import Layout

FORMAT = 1
MANIFEST_NAME = "manifest.json"
TRAIN_STEP = "train_step.onnx"
FISHER = "fisher.onnx"
EVALUATE = "evaluate.onnx"
PREDICT = "predict.onnx"
WEIGHTS = "weights.safetensors"

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


class BundleFile(msgspec.Struct, frozen=True):
    """Hash (lower-case hexadecimal) and size in bytes of one file."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        require(_HEX_SHA256.fullmatch(self.sha256) is not None, "sha256", self.sha256, "64 hexadecimal digits")
        require(self.size >= 0, "size", self.size, "at least 0")


class Rung(msgspec.Struct, frozen=True):
    """A folder of onnxruntime-training artifacts made for these widths (neurons a group)."""

    folder: str
    widths: dict[str, int]


class BundleManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`input_shape` is one example's, without the batch axis; targets are integers in [0, classes)."""

    format: int
    model: str
    input_shape: tuple[int, ...]
    classes: int
    layout: Layout
    files: dict[str, BundleFile]
    rungs: tuple[Rung, ...] = ()

    def __post_init__(self) -> None:
        require(self.format == FORMAT, "bundle format", self.format, str(FORMAT))
        require(self.classes >= 2, "classes", self.classes, "at least 2")
        for name in self.files:
            path = PurePosixPath(name)
            safe = not path.is_absolute() and ".." not in path.parts and str(path) == name and "\\" not in name
            require(safe, "bundle file name", name, "a plain relative path")


def encode_manifest(manifest: BundleManifest) -> bytes:
    """JSON bytes; their SHA-256 names the bundle."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1)


def decode_manifest(payload: bytes) -> BundleManifest:
    """Read a manifest strictly; raises `ProtocolError`."""
    try:
        return msgspec.json.decode(payload, type=BundleManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a valid bundle manifest: {error}") from error


def bundle_id(payload: bytes) -> str:
    """The name of the bundle whose manifest has these bytes."""
    return sha256(payload).hexdigest()
