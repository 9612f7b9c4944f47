"""A bundle as it is on a device before its installer is run."""

from __future__ import annotations

import tarfile
from pathlib import Path

from devices.flashing.caches import cache_folder
from devices.flashing.offline_bundle import build_bundle
from devices.flashing.systems import System


def unpacked_bundle(device: Path, system: System, folder: Path) -> Path:
    """Make the bundle of a device's and unpack it below `folder`, as an ordinary tar would."""
    out = folder / "bundle.tar"
    name = build_bundle(device, system, out, cache_folder(), lambda line: None)
    with tarfile.open(out) as tar:
        tar.extractall(folder, filter="fully_trusted")
    out.unlink()
    return folder / name
