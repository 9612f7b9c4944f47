"""Releases of the client on a device's disk: the folder `releases` beside `device.toml`.

    choice                 which one a start runs (`choice`)
    <version>/             a release's packages, there whole or not at all
    <version>.archive      what is being fetched (`.part` and `.sealed` until it is whole), gone once it is unpacked
    unpacking/, removing/  a release on its way in or out, of no meaning

Invariants: at most the confirmed release and one more are here; the confirmed one and the one that runs are never
touched; whatever a kill or a power cut leaves is taken up or tidied away by the next start. Functions block.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from pathlib import Path

from edge_client.durable_files import plainly
from edge_client.errors import ReleaseDiskError
from edge_client.updates.choice import NAME, Choice, load_choice, save_choice
from wire_protocol.durable_files import sync_folder
from wire_protocol.releases import Release

SPARE_BYTES = 32 * 2**20
"""Left free beside a release: rounds go on while it is unpacked."""
_BYTE_CODE = 1.3
"""Times the files' own size that a release takes with its byte code."""
_FOLDER_MODE = 0o700
_UNPACKING, _REMOVING, _ARCHIVE = "unpacking", "removing", ".archive"


class ReleaseFolder:
    """The releases of one device; `running` is the version that runs."""

    def __init__(self, folder: Path, running: str) -> None:
        self._folder = folder
        self._running = running

    def choice(self) -> Choice:
        """What the next start is told."""
        return load_choice(self._folder)

    def choose(self, choice: Choice) -> None:
        """Tell the next start; raises `ReleaseDiskError` and changes nothing where the disk fails."""
        try:
            self._folder.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            save_choice(self._folder, choice)
        except OSError as error:
            raise _disk_error(self._folder, error) from error

    def archive(self, release: Release) -> Path:
        """Where its archive is to be fetched to, after all that is of no use any more has gone."""
        self._tidy({release.version})
        return self._folder / f"{release.version}{_ARCHIVE}"

    def require_room(self, release: Release) -> None:
        """Raise `ReleaseDiskError` where the archive and what is in it would not fit now."""
        needed = release.size + int(release.unpacked * _BYTE_CODE) + SPARE_BYTES
        try:
            free = shutil.disk_usage(self._folder).free
        except OSError as error:
            raise _disk_error(self._folder, error) from error
        if free < needed:
            raise ReleaseDiskError(f"{self._folder} has {free} bytes free, release {release.version} needs {needed}")

    def install(self, release: Release) -> None:
        """Make the release of its archive; raises `ReleaseDiskError`, or `ReleaseError` for an archive not legal."""
        from edge_client.updates.unpacking import unpack  # noqa: PLC0415 - loads tarfile

        target, unpacking = self._folder / release.version, self._folder / _UNPACKING
        archive = self._folder / f"{release.version}{_ARCHIVE}"
        try:
            for left in (target, unpacking):
                if left.exists():
                    self._remove(left)
            unpack(archive, release, unpacking)
            unpacking.replace(target)
            sync_folder(self._folder)
            archive.unlink(missing_ok=True)
        except OSError as error:
            raise _disk_error(self._folder, error) from error
        finally:
            shutil.rmtree(unpacking, ignore_errors=True)

    def tidy(self) -> None:
        """Remove all but what a start may choose and what runs; raises `ReleaseDiskError`."""
        self._tidy(set())

    def _tidy(self, wanted: Collection[str]) -> None:
        choice = self.choice()
        versions = {choice.confirmed, choice.trial, self._running}
        archives = {f"{version}{_ARCHIVE}{end}" for version in wanted for end in ("", ".part", ".sealed")}
        try:
            self._folder.mkdir(_FOLDER_MODE, parents=True, exist_ok=True)
            for path in self._folder.iterdir():
                if path.name not in {NAME, *versions, *archives}:
                    self._remove(path)
        except OSError as error:
            raise _disk_error(self._folder, error) from error

    def _remove(self, path: Path) -> None:
        """A release is renamed first, so that half of one is never taken for one."""
        if not path.is_dir() or path.is_symlink():
            path.unlink(missing_ok=True)
            return
        removing = path.with_name(_REMOVING)
        if path != removing:
            shutil.rmtree(removing, ignore_errors=True)
            path.replace(removing)
        shutil.rmtree(removing)


def _disk_error(folder: Path, error: OSError) -> ReleaseDiskError:
    return ReleaseDiskError(f"{folder} cannot be written: {plainly(error)}")
