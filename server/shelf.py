"""The files that devices may have: of all runs at hand bundles' files, models, and differences of models; archives of
the client's releases, and promoted models.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from server.bundle import Bundle
from server.content_files import ContentFiles
from server.model_files import ModelFiles


class Offered(NamedTuple):
    """What one run offers."""

    bundle: Bundle
    models: ModelFiles


class Shelf:
    """`offered` says what runs offer now, `releases` and `promoted` are there whatever runs there are.

    All files but bundles' are named by their SHA-256 (hexadecimal).
    """

    def __init__(
        self, offered: Callable[[], Iterable[Offered]], releases: ContentFiles, promoted: ContentFiles
    ) -> None:
        self._offered = offered
        self._releases = releases
        self._promoted = promoted

    def bundle(self, bundle: str) -> Bundle | None:
        """The bundle with this id, None where no run at hand trains it."""
        return next((one.bundle for one in self._offered() if one.bundle.id == bundle), None)

    def model(self, sha256: str) -> Path | None:
        """A whole model, as `tensor_codec` bytes; only the last few of each run are here."""
        return _first(one.models.encoded.path_of(sha256) for one in self._offered())

    def difference(self, sha256: str) -> Path | None:
        """The difference between two resyncs' models; only the last of each run is here."""
        return _first(one.models.differences.path_of(sha256) for one in self._offered())

    def release(self, sha256: str) -> Path | None:
        """The archive of a release of the client."""
        return self._releases.path_of(sha256)

    def promoted(self, sha256: str) -> Path | None:
        """A promoted model, as ONNX."""
        return self._promoted.path_of(sha256)

    def path_of(self, path: str) -> Path | None:
        """Where the file of a `Want` is, None when there is no such file."""
        kind, name, *rest = path.split("/", 2)
        if kind == "bundles":
            bundle = self.bundle(name)
            return None if bundle is None else bundle.file("".join(rest))
        by_hash = {
            "models": self.model,
            "differences": self.difference,
            "releases": self.release,
            "promoted": self.promoted,
        }
        return by_hash[kind](name)


def _first(paths: Iterable[Path | None]) -> Path | None:
    return next((path for path in paths if path is not None), None)
