"""All files of the client as they stand on a device, the same bytes from the same sources.

    /opt/fisherfleet-edge/site-packages            the client and its packages
    /usr/bin/fisherfleet-edge                      runs it
    /usr/lib/systemd/system/fisherfleet-edge.service
    /usr/lib/sysusers.d/fisherfleet-edge.conf      the service's user

All are root's and nobody writes to them. What is a device's own is in `/var/lib/fisherfleet-edge`, see
`device_folder.py`.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from devices.flashing.client_packages import client_packages
from devices.flashing.systems import System

SITE_PACKAGES = "opt/fisherfleet-edge/site-packages"
LAUNCHER = "usr/bin/fisherfleet-edge"
UNIT = "usr/lib/systemd/system/fisherfleet-edge.service"
USER = "usr/lib/sysusers.d/fisherfleet-edge.conf"
OURS = ("edge_client", "wire_protocol")
ON_DEVICE = Path(__file__).parent / "on_device"
_EPOCH = 1_600_000_000
_QUOTA = "CPUQuota=300%"


def client_version() -> str:
    """The version of the client, which is that of this package."""
    return version("fisherfleet")


def write_site_packages(system: System, folder: Path, cache: Path, say: Callable[[str], None]) -> None:
    """Make `folder` with the client and its packages for `system`: what goes first in a device's `sys.path`.

    `say` gets a line before something is fetched. Raises `FlashError`.
    """
    shutil.copytree(client_packages(system, cache, say), folder)
    for name in OURS:
        spec = find_spec(name)
        assert spec is not None
        assert spec.submodule_search_locations is not None
        (source,) = spec.submodule_search_locations
        shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    metadata = folder / f"fisherfleet-{client_version()}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: fisherfleet\nVersion: {client_version()}\n")


def write_client_tree(system: System, root: Path, cache: Path, say: Callable[[str], None]) -> None:
    """Make `root` with all files of the client, with their modes and one time; raises `FlashError`.

    `say` gets a line before something is fetched.
    """
    write_site_packages(system, root / SITE_PACKAGES, cache, say)
    files = {LAUNCHER: _text("fisherfleet-edge"), UNIT: unit(system), USER: _text("sysusers.conf")}
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    settle(root)


def unit(system: System) -> str:
    """The service as systemd runs it there."""
    text = _text("fisherfleet-edge.service")
    assert _QUOTA in text
    return text.replace(_QUOTA, f"CPUQuota={100 * system.most_threads}%")


def _text(name: str) -> str:
    return (ON_DEVICE / name).read_text()


def source_time() -> int:
    """When files were made, in seconds of Unix time: SOURCE_DATE_EPOCH where it is set (reproducible-builds.org)."""
    return int(os.environ.get("SOURCE_DATE_EPOCH", _EPOCH))


def settle(root: Path) -> None:
    """Give everything below `root` the modes of system files and one time."""
    seconds = source_time()
    for path in (root, *root.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
        os.utime(path, (seconds, seconds))
    (root / LAUNCHER).chmod(0o755)
