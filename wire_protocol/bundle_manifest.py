"""What a bundle is: its model, its files with their hashes, its layout. Written at export, read by both ends.

A bundle is named by the SHA-256 of its `manifest.json`, which names the SHA-256 of every other file: who trusts the
one hash can check all.
"""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Literal

import msgspec

from wire_protocol.errors import ProtocolError, require
from wire_protocol.layout import Layout

FORMAT = 1
MANIFEST_NAME = "manifest.json"
TRAIN_STEP = "train_step.onnx"
FISHER = "fisher.onnx"
PRIVATE_STEP = "private_step.onnx"
EVALUATE = "evaluate.onnx"
PREDICT = "predict.onnx"
WEIGHTS = "weights.safetensors"

# The files of a rung, below its folder.
TRAINING_MODEL = "training_model.onnx"
EVAL_MODEL = "eval_model.onnx"
OPTIMIZER_MODEL = "optimizer_model.onnx"
CHECKPOINT = "checkpoint"

LossName = Literal["cross-entropy", "mse", "bce"]
"""Softmax cross-entropy of labels, mean squared error, cross-entropy of yes-or-no targets."""

MAX_MANIFEST_BYTES = 4 * 1024 * 1024
MAX_VALUES = 65_536
"""In a manifest: each takes far more memory than bytes. A parameter has about twenty."""

_SEPARATORS = b",:["
_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")
_PATH = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*")
_LEGAL_PATH = "names of letters, digits, -, _ and . joined by /, none starting with ."


class BundleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Hash (lower-case hexadecimal) and size in bytes of one file."""

    sha256: str
    size: int

    def __post_init__(self) -> None:
        require(_HEX_SHA256.fullmatch(self.sha256) is not None, "sha256", self.sha256, "64 hexadecimal digits")
        require(self.size >= 0, "size", self.size, "at least 0")


class Rung(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A folder of onnxruntime-training artifacts made for these widths (neurons a group)."""

    folder: str
    widths: dict[str, int]

    def __post_init__(self) -> None:
        require(_PATH.fullmatch(self.folder) is not None, "rung folder", self.folder, _LEGAL_PATH)


class BundleManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`input_shape` and `output_shape` are one example's, without the batch axis.

    With the loss cross-entropy the output is (classes,), which may be left out, and targets are integers in
    [0, classes). With the others `classes` is 0 and targets are float32 of the output's shape.
    """

    format: int
    model: str
    input_shape: tuple[int, ...]
    classes: int
    layout: Layout
    files: dict[str, BundleFile]
    rungs: tuple[Rung, ...] = ()
    loss: LossName = "cross-entropy"
    output_shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require(self.format == FORMAT, "bundle format", self.format, str(FORMAT))
        if self.loss == "cross-entropy":
            require(self.classes >= 2, "classes", self.classes, "at least 2")
            legal = self.output_shape in ((), (self.classes,))
            require(legal, "output_shape", self.output_shape, f"({self.classes},), one logit a class")
        else:
            require(self.classes == 0, "classes", self.classes, f"0 with the loss {self.loss}")
        for name, shape in (("input_shape", self.input_shape), ("output_shape", self.output_shape)):
            require(all(size >= 1 for size in shape), name, shape, "positive sizes")
        for name in self.files:
            require(_PATH.fullmatch(name) is not None, "bundle file name", name, _LEGAL_PATH)
            require(name != MANIFEST_NAME, "bundle file name", name, "another than the manifest's own")
        for rung in self.rungs:
            _require_widths_fit(rung, self.layout)


def _require_widths_fit(rung: Rung, layout: Layout) -> None:
    sizes = layout.group_sizes
    legal = rung.widths.keys() == sizes.keys() and all(1 <= rung.widths[name] <= size for name, size in sizes.items())
    require(legal, f"widths of rung {rung.folder}", rung.widths, f"1 to the size of every neuron group {sizes}")


def encode_manifest(manifest: BundleManifest) -> bytes:
    """JSON bytes; their SHA-256 names the bundle."""
    return msgspec.json.format(msgspec.json.encode(manifest, order="deterministic"), indent=1)


def decode_manifest(payload: bytes) -> BundleManifest:
    """Read a manifest strictly; raises `ProtocolError`."""
    if len(payload) > MAX_MANIFEST_BYTES:
        raise ProtocolError(f"a bundle manifest has {len(payload)} bytes, expected at most {MAX_MANIFEST_BYTES}")
    if sum(payload.count(separator) for separator in _SEPARATORS) > MAX_VALUES:
        raise ProtocolError(f"a bundle manifest holds more than {MAX_VALUES} values")
    try:
        return msgspec.json.decode(payload, type=BundleManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProtocolError(f"not a valid bundle manifest: {error}") from error


def bundle_id(payload: bytes) -> str:
    """The name of the bundle whose manifest has these bytes."""
    return sha256(payload).hexdigest()
