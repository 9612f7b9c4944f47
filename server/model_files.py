"""Models on disk: versions of a run as safetensors, and the encoded models that devices download.

    state/models/{run}/{version}.safetensors    float32, durable before the round that made it is closed
    state/models/{run}/{version}.moments        the server optimizer's state after it, float64; none without a state
    state/encoded/{sha256}                      tensor_codec bytes named by their SHA-256, immutable

Of versions the newest two are kept: the current one, and the one that a restart may still need. Of encoded models as
many as asked for, two at least: the current one, and those that a download may still need.
"""

from __future__ import annotations

import re
from hashlib import sha256
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from server.bundle import read_weights
from server.durable_files import write_durably
from server.errors import BundleError
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays

KEPT = 2
_SHA256 = re.compile(r"[0-9a-f]{64}")


class ModelFiles:
    """Model files of one run in the folder `state`; `offered` encoded models can be downloaded."""

    def __init__(self, state: Path, run: str, offered: int = KEPT) -> None:
        self._offered = max(KEPT, offered)
        self._versions = state / "models" / run
        self._encoded = state / "encoded"
        self._published: list[str] = []

    def save_version(self, version: int, parameters: Arrays, moments: Arrays = MappingProxyType({})) -> Path:
        """Make a version and its moments durable, delete all but the newest two; returns the version's path."""
        path, beside = self._version_path(version), self._moments_path(version)
        if moments:
            write_durably(beside, _contiguous(moments))
        else:
            beside.unlink(missing_ok=True)
        write_durably(path, _contiguous(parameters))
        for old in range(version - KEPT, -1, -1):
            self._moments_path(old).unlink(missing_ok=True)
            stale = self._version_path(old)
            if not stale.exists():
                break
            stale.unlink()
        return path

    def load_moments(self, version: int) -> dict[str, NDArray[np.float64]]:
        """The moments saved with a version, empty without any; raises `BundleError` when they are not whole."""
        path = self._moments_path(version)
        try:
            return safetensors.numpy.load_file(path) if path.exists() else {}
        except (OSError, safetensors.SafetensorError) as error:
            raise BundleError(f"{path} cannot be read as safetensors: {error}") from error

    def load_version(self, version: int, layout: Layout) -> dict[str, NDArray[Any]]:
        """Read a version; raises `BundleError` when it is not there or not whole."""
        return read_weights(self._version_path(version), layout)

    def publish(self, encoded: bytes) -> str:
        """Offer an encoded model for download, withdraw the oldest; returns its SHA-256 (hexadecimal)."""
        digest = sha256(encoded).hexdigest()
        if self.encoded_path(digest) is None:
            write_durably(self._encoded / digest, encoded)
        others = [known for known in self._published if known != digest]
        self._published = [*others[1 - self._offered :], digest]
        for path in self._encoded.iterdir():
            if path.name not in self._published:
                path.unlink(missing_ok=True)
        return digest

    def encoded_path(self, digest: str) -> Path | None:
        """Path of an encoded model, None when `digest` names none."""
        path = self._encoded / digest
        return path if _SHA256.fullmatch(digest) and path.is_file() else None

    def _moments_path(self, version: int) -> Path:
        return self._versions / f"{version}.moments"

    def _version_path(self, version: int) -> Path:
        return self._versions / f"{version}.safetensors"


def _contiguous(arrays: Arrays) -> bytes:
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
