"""Bundles and models on a device's disk: fetched once, checked by SHA-256 at every use, named by their hash.

    <folder>/bundles/<bundle id>/manifest.json and the files the manifest names
    <folder>/models/<SHA-256>                   the newest model only

A bundle's manifest is checked against the bundle's name and every file against the manifest, so a server (or who
stands between) can withhold a bundle but not change it. Functions block.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from edge_client.errors import BundleError
from edge_client.http_download import Http, Wanted, download, is_here
from wire_protocol.bundle_manifest import MANIFEST_NAME, BundleManifest, decode_manifest
from wire_protocol.errors import FisherfleetError

MAX_MANIFEST_BYTES = 4 * 1024 * 1024

_HEX_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class BundleStore:
    """`server` is a URL without trailing slash; `folder` is made when needed and belongs to one device."""

    server: str
    folder: Path
    http: Http = field(default_factory=Http)

    def manifest(self, bundle: str) -> BundleManifest:
        """The manifest of a bundle; raises `BundleError`."""
        url = f"{self._bundle_url(bundle)}/{MANIFEST_NAME}"
        path = self._bundle_folder(bundle) / MANIFEST_NAME
        self._ensure(Wanted(url, path, bundle, MAX_MANIFEST_BYTES, exact=False))
        try:
            return decode_manifest(path.read_bytes())
        except FisherfleetError as error:
            raise BundleError(f"bundle {bundle}: {error}") from error

    def files(self, bundle: str, manifest: BundleManifest, names: Iterable[str]) -> Path:
        """Have these files of a bundle; returns their folder. Raises `BundleError`."""
        folder = self._bundle_folder(bundle)
        for name in names:
            if name not in manifest.files:
                raise BundleError(f"bundle {bundle} has no file {name}, it holds {sorted(manifest.files)}")
            file = manifest.files[name]
            url = f"{self._bundle_url(bundle)}/{name}"
            self._ensure(Wanted(url, folder / name, file.sha256, file.size))
        return folder

    def model(self, model: str, size: int) -> bytes:
        """The bytes of a model of `size` bytes, forgetting every older one; raises `BundleError`."""
        name = _checked(model)
        models = self.folder / "models"
        self._ensure(Wanted(f"{self.server}/api/v1/models/{name}", models / name, name, size))
        for path in models.iterdir():
            if path.name != name:
                path.unlink()
        return (models / name).read_bytes()

    def _ensure(self, wanted: Wanted) -> None:
        try:
            if not is_here(wanted):
                download(wanted, self.http)
        except OSError as error:
            raise BundleError(f"{wanted.target} cannot be kept on disk: {error}") from error

    def _bundle_folder(self, bundle: str) -> Path:
        return self.folder / "bundles" / _checked(bundle)

    def _bundle_url(self, bundle: str) -> str:
        return f"{self.server}/api/v1/bundles/{_checked(bundle)}"


def _checked(name: str) -> str:
    if not _HEX_SHA256.fullmatch(name):
        raise BundleError(f"a bundle or model must be named by 64 lower-case hexadecimal digits, got {name!r}")
    return name
