"""Bundles and models on a device's disk: fetched once, checked by SHA-256 at every use, named by their hash.

    <folder>/bundles/<bundle id>/manifest.json and the files the manifest names: the four bundles used last
    <folder>/resyncs/<run>/<SHA-256>            the model of the run's newest resync only, of the four runs used last
    <folder>/models/<SHA-256>                   the newest model fetched in place of a slice
    <folder>/differences/<SHA-256>              the difference of models that is being fetched or applied

A bundle's manifest is checked against the bundle's name and every file against the manifest, so a server (or who
stands between) can withhold a bundle but not change it. Functions block.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path

from edge_client.durable_files import plainly, write_durably
from edge_client.errors import BundleError, SpoiltError
from edge_client.http_download import Http, Wanted, download, is_here
from wire_protocol.bundle_manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, BundleManifest, decode_manifest
from wire_protocol.errors import FisherfleetError

logger = logging.getLogger(__name__)

BUNDLES_KEPT, RUNS_KEPT = 4, 4

Shelf = str
"""Where models are, beside the bundles: `MODELS`, `DIFFERENCES`, or `resyncs_of` a run."""
MODELS, DIFFERENCES = "models", "differences"


def resyncs_of(run: str) -> Shelf:
    """Where the model of a run's newest resync is; `run` is a legal name."""
    return f"resyncs/{run}"


_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BundleStore:
    """`server` is a URL without trailing slash; `folder` is made when needed and belongs to one device."""

    server: str
    folder: Path
    http: Http = field(default_factory=Http)
    fetch: Callable[[Wanted, Http], None] = download

    def manifest(self, bundle: str) -> BundleManifest:
        """The manifest of a bundle; raises `BundleError`."""
        wanted = self._wanted_manifest(bundle)
        self._ensure(wanted)
        self._forget_old(wanted.target.parent, BUNDLES_KEPT)
        return _read_manifest(bundle, wanted.target)

    def manifest_here(self, bundle: str) -> BundleManifest | None:
        """The manifest of a bundle if it is on disk, whole; asks no server. Raises `BundleError`."""
        wanted = self._wanted_manifest(bundle)
        try:
            return _read_manifest(bundle, wanted.target) if is_here(wanted) else None
        except OSError as error:
            raise BundleError(f"{wanted.target} cannot be read: {plainly(error)}") from error

    def newest_bundle(self) -> str | None:
        """The bundle used last that is on disk."""
        folders = [path for path in (self.folder / "bundles").glob("*") if _HEX_SHA256.fullmatch(path.name)]
        return max(folders, key=lambda path: path.stat().st_mtime_ns).name if folders else None

    def files(self, bundle: str, manifest: BundleManifest, names: Iterable[str]) -> Path:
        """Have these files of a bundle; returns their folder. Raises `BundleError`."""
        folder = self._bundle_folder(bundle)
        for name in names:
            if name not in manifest.files:
                raise BundleError(f"bundle {bundle} has no file {name}, it holds {sorted(manifest.files)}")
            file = manifest.files[name]
            self._ensure(self._wanted(f"bundles/{bundle}/{name}", folder / name, file.sha256, file.size))
        return folder

    def bytes_to_fetch(self, bundle: str, manifest: BundleManifest, names: Iterable[str]) -> int:
        """Bytes of these files that are not on disk."""
        folder = self._bundle_folder(bundle)
        return sum(manifest.files[name].size for name in names if not (folder / name).is_file())

    def model(self, model: str, size: int, shelf: Shelf = MODELS) -> bytes:
        """The bytes of a model of `size` bytes, forgetting every other on its shelf; raises `BundleError`."""
        wanted = self._wanted_model(model, size, shelf)
        self._ensure(wanted)
        if shelf not in (MODELS, DIFFERENCES):
            self._forget_old(wanted.target.parent, RUNS_KEPT)
        return self._only(wanted)

    def model_here(self, model: str, size: int, shelf: Shelf) -> bytes | None:
        """A model's bytes if they are on disk, whole; asks no server. Raises `BundleError`."""
        wanted = self._wanted_model(model, size, shelf)
        try:
            return wanted.target.read_bytes() if is_here(wanted) else None
        except OSError as error:
            raise BundleError(f"{wanted.target} cannot be read: {plainly(error)}") from error

    def keep_model(self, model: str, content: bytes, shelf: Shelf) -> None:
        """Put a model on its shelf that was made here.

        Raises `SpoiltError` where its hash is another, and `BundleError` where the disk fails.
        """
        found, target = sha256(content).hexdigest(), self._wanted_model(model, len(content), shelf).target
        if found != model:
            raise SpoiltError(f"a model made here has SHA-256 {found}, expected {model}")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_durably(target, [content])
        except OSError as error:
            raise BundleError(f"{target} cannot be kept on disk: {plainly(error)}") from error

    def difference(self, difference: str, size: int) -> bytes:
        """The bytes of a difference of models, forgetting every other; raises `BundleError`."""
        name = _checked(difference)
        wanted = self._wanted(f"differences/{name}", self.folder / "differences" / name, name, size)
        self._ensure(wanted)
        return self._only(wanted)

    def clear(self, shelf: Shelf) -> None:
        """Forget all on a shelf; raises `BundleError`."""
        self._forget(self.folder / shelf)

    def _only(self, wanted: Wanted) -> bytes:
        self._forget(wanted.target.parent, wanted.target)
        return wanted.target.read_bytes()

    def _forget(self, folder: Path, but: Path | None = None) -> None:
        try:
            for path in folder.glob("*"):
                if path != but:
                    path.unlink()
        except OSError as error:
            raise BundleError(f"{folder} cannot be tidied: {plainly(error)}") from error

    def _wanted_model(self, model: str, size: int, shelf: Shelf) -> Wanted:
        name = _checked(model)
        return self._wanted(f"models/{name}", self.folder / shelf / name, name, size)

    def _ensure(self, wanted: Wanted) -> None:
        try:
            if not is_here(wanted):
                self.fetch(wanted, self.http)
        except OSError as error:
            raise BundleError(f"{wanted.target} cannot be kept on disk: {plainly(error)}") from error

    def _wanted_manifest(self, bundle: str) -> Wanted:
        target = self._bundle_folder(bundle) / MANIFEST_NAME
        wanted = self._wanted(f"bundles/{bundle}/{MANIFEST_NAME}", target, bundle, MAX_MANIFEST_BYTES)
        return replace(wanted, exact=False)

    def _wanted(self, path: str, target: Path, digest: str, size: int) -> Wanted:
        return Wanted(f"{self.server}/api/v1/{path}", target, digest, size, path=path)

    def _forget_old(self, used: Path, kept: int) -> None:
        """Of the folders beside the one just used, keep so many that were used last, itself among them."""
        try:
            os.utime(used)
            newest_first = sorted(used.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
            others = [path for path in newest_first if path != used]
            for path in others[kept - 1 :]:
                logger.info("%s was not used lately and is removed", path)
                shutil.rmtree(path)
        except OSError as error:
            logger.warning("what is old in %s cannot be removed: %s", used.parent, plainly(error))

    def _bundle_folder(self, bundle: str) -> Path:
        return self.folder / "bundles" / _checked(bundle)


def _read_manifest(bundle: str, path: Path) -> BundleManifest:
    try:
        return decode_manifest(path.read_bytes())
    except OSError as error:
        raise BundleError(f"{path} cannot be read: {plainly(error)}") from error
    except FisherfleetError as error:
        raise BundleError(f"bundle {bundle}: {error}") from error


def _checked(name: str) -> str:
    if not _HEX_SHA256.fullmatch(name):
        raise BundleError(f"a bundle or model must be named by 64 lower-case hexadecimal digits, got {name!r}")
    return name
