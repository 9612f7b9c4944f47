"""Bundles and held-out examples in the state folder, so that runs go on whatever becomes of the files they came from.

    state/bundles/{id}/        a bundle's manifest and the files that it names
    state/tests/{run}.npz      a run's held-out examples

A bundle is copied beside its place and renamed, so that it is there whole or not at all. Functions block.
"""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np

from server.bundle import Bundle, open_bundle
from server.durable_files import write_durably
from server.errors import BundleError, StorageError, UnknownRunError
from wire_protocol.bundle_manifest import MANIFEST_NAME, BundleManifest, decode_manifest
from wire_protocol.durable_files import sync_folder
from wire_protocol.errors import ProtocolError
from wire_protocol.examples import Examples, load_examples


class RunFiles:
    """The files in the folder `state`."""

    def __init__(self, state: Path) -> None:
        self._bundles = state / "bundles"
        self._tests = state / "tests"

    def add_bundle(self, folder: Path) -> Bundle:
        """Keep a copy of a bundle, in place of one that is damaged. Raises `BundleError` and `StorageError`."""
        bundle = open_bundle(folder)
        try:
            return self.bundle(bundle.id)
        except (BundleError, UnknownRunError):
            self._copy(bundle)
            return self.bundle(bundle.id)

    def bundle(self, bundle: str) -> Bundle:
        """Open a bundle that was added; raises `UnknownRunError` where none was, and `BundleError` if it is damaged."""
        folder = self._bundles / bundle
        if not bundle.isalnum() or not folder.is_dir():
            raise UnknownRunError(f"there is no bundle {bundle!r} here: add it first")
        return open_bundle(folder)

    def manifest(self, bundle: str) -> BundleManifest:
        """What a bundle that was added says of itself; raises `UnknownRunError` where none was, and `BundleError`."""
        path = self._bundles / bundle / MANIFEST_NAME
        if not bundle.isalnum() or not path.is_file():
            raise UnknownRunError(f"there is no bundle {bundle!r} here: add it first")
        try:
            return decode_manifest(path.read_bytes())
        except (OSError, ProtocolError) as error:
            raise BundleError(f"{path} cannot be read: {error}") from error

    def bundles(self) -> tuple[str, ...]:
        """Ids of the bundles that were added, sorted."""
        return tuple(sorted(path.parent.name for path in self._bundles.glob(f"[!.]*/{MANIFEST_NAME}")))

    def save_test(self, run: str, test: Examples) -> None:
        """Keep a run's held-out examples, in place of those it had; raises `StorageError`."""
        arrays = {"x": test.x} if test.y is test.x else {"x": test.x, "y": test.y}
        content = io.BytesIO()
        np.savez(content, **arrays)
        write_durably(self.test_path(run), content.getvalue())

    def test(self, run: str) -> Examples | None:
        """A run's held-out examples, None without any; raises `ExamplesError` where they are damaged."""
        path = self.test_path(run)
        return load_examples(path, labelled=False) if path.exists() else None

    def test_path(self, run: str) -> Path:
        """Where a run's held-out examples are, if it has any."""
        return self._tests / f"{run}.npz"

    def _copy(self, bundle: Bundle) -> None:
        target, partial = self._bundles / bundle.id, self._bundles / f".{bundle.id}.partial"
        try:
            shutil.rmtree(partial, ignore_errors=True)
            for name in (*bundle.manifest.files, MANIFEST_NAME):
                write_durably(partial / name, (bundle.folder / name).read_bytes())
            if target.exists():
                shutil.rmtree(target)
            partial.rename(target)
            sync_folder(self._bundles)
        except OSError as error:
            raise StorageError(f"bundle {bundle.id} cannot be copied to {self._bundles} ({error.strerror})") from error
