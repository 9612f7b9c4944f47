"""Models on disk: versions of a run as safetensors, and the encoded models that devices download.

    state/models/{run}/{version}.safetensors    float32, durable before the round that made it is closed
    state/models/{run}/roll-back.safetensors    the version of the last roll back
    state/models/{run}/{version}.moments        the server optimizer's state after it, float64; none without a state
    state/encoded/{run}/{sha256}                tensor_codec bytes named by their SHA-256, immutable
    state/differences/{run}/{sha256}            the same, of a model's difference from the one of the resync before

Of versions the newest two are kept: the current one, and the one that a restart may still need. Of encoded models as
many as asked for, two at least: the current one, and those that a download or a restart may still need; and the one of
the last resync, from which the next is a difference.
"""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from numpy.typing import NDArray

from server.bundle import read_weights
from server.content_files import ContentFiles
from server.durable_files import write_durably
from server.errors import BundleError
from wire_protocol.layout import Layout
from wire_protocol.sub_model import Arrays

KEPT = 2


class ModelFiles:
    """Model files of one run in the folder `state`; devices download `encoded` (`offered`) and `differences`."""

    def __init__(self, state: Path, run: str, offered: int = KEPT) -> None:
        self._versions = state / "models" / run
        self.encoded = ContentFiles(state / "encoded" / run, max(KEPT, offered))
        self.differences = ContentFiles(state / "differences" / run, 1)

    def save_version(self, version: int, parameters: Arrays, moments: Arrays = MappingProxyType({})) -> Path:
        """Make a version and its moments durable, delete all but the newest two; returns the version's path."""
        path, beside = self.version_path(version), self._moments_path(version)
        if moments:
            write_durably(beside, _contiguous(moments))
        else:
            beside.unlink(missing_ok=True)
        write_durably(path, _contiguous(parameters))
        for old in range(version - KEPT, -1, -1):
            self._moments_path(old).unlink(missing_ok=True)
            stale = self.version_path(old)
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

    def save_roll_back(self, content: bytes) -> None:
        """Keep the version, as safetensors, that a roll back goes to, whatever becomes of the version itself."""
        write_durably(self._roll_back_path, content)

    def load_roll_back(self, layout: Layout) -> dict[str, NDArray[Any]]:
        """Read it; raises `BundleError` when it is not there or not whole."""
        return read_weights(self._roll_back_path, layout)

    def load_version(self, version: int, layout: Layout) -> dict[str, NDArray[Any]]:
        """Read a version; raises `BundleError` when it is not there or not whole."""
        return read_weights(self.version_path(version), layout)

    def version_path(self, version: int) -> Path:
        """Where a version is, if it is kept."""
        return self._versions / f"{version}.safetensors"

    @property
    def _roll_back_path(self) -> Path:
        return self._versions / "roll-back.safetensors"

    def _moments_path(self, version: int) -> Path:
        return self._versions / f"{version}.moments"


def _contiguous(arrays: Arrays) -> bytes:
    return safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
