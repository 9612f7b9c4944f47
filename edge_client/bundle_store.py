"""Bundles and models on a device's disk: fetched once, checked by SHA-256 at every use, named by their hash.

    <folder>/bundles/<bundle id>/manifest.json and the files the manifest names: the two bundles used last
    <folder>/models/<SHA-256>                   the newest model only

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
from pathlib import Path

from edge_client.durable_files import plainly
from edge_client.errors import BundleError
from edge_client.http_download import Http, Wanted, download, is_here
from wire_protocol.bundle_manifest import MANIFEST_NAME, MAX_MANIFEST_BYTES, BundleManifest, decode_manifest
from wire_protocol.errors import FisherfleetError

logger = logging.getLogger(__name__)

BUNDLES_KEPT = 2

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
        self._forget_old_bundles(wanted.target.parent)
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

    def bytes_to_fetch(
        self, bundle: str, manifest: BundleManifest, names: Iterable[str], model: tuple[str, int]
    ) -> int:
        """Bytes of these files and of a model (name and size) that are not on disk."""
        folder = self._bundle_folder(bundle)
        files = sum(manifest.files[name].size for name in names if not (folder / name).is_file())
        return files + (0 if (self.folder / "models" / _checked(model[0])).is_file() else model[1])

    def model(self, model: str, size: int) -> bytes:
        """The bytes of a model of `size` bytes, forgetting every older one; raises `BundleError`."""
        name = _checked(model)
        models = self.folder / "models"
        self._ensure(self._wanted(f"models/{name}", models / name, name, size))
        for path in models.iterdir():
            if path.name != name:
                path.unlink()
        return (models / name).read_bytes()

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

    def _wanted(self, path: str, target: Path, sha256: str, size: int) -> Wanted:
        return Wanted(f"{self.server}/api/v1/{path}", target, sha256, size, path=path)

    def _forget_old_bundles(self, used: Path) -> None:
        """Keep the bundle just used and the one used before it: a run may go back by one, never further."""
        try:
            os.utime(used)
            newest_first = sorted(used.parent.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True)
            others = [path for path in newest_first if path != used]
            for path in others[BUNDLES_KEPT - 1 :]:
                logger.info("bundle %s was not used lately and is removed", path.name)
                shutil.rmtree(path)
        except OSError as error:
            logger.warning("old bundles in %s cannot be removed: %s", used.parent, plainly(error))

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
