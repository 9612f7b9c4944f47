"""A device's own folder, as the operator has it: what of it goes to the device.

It holds either what makes the device a member of a fleet already,

    device.toml            its configuration
    identity/              its keys and certificates
    data.npz               its examples; may also come later, or from elsewhere

or what lets it become one at its first start, with keys that it makes itself:

    enrol.toml             device, server, token and, where needed, ca_file = "ca.pem", as `fisherfleet-edge enrol` has
    ca.pem

All of it ends in `/var/lib/fisherfleet-edge`, where folders have mode 0700 and files 0600 and belong to the service's
user.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from devices.errors import FlashError

CONFIG, ENROLMENT, DATA, AUTHORITY = "device.toml", "enrol.toml", "data.npz", "ca.pem"
IDENTITY = "identity"
PRIVATE_FILE, PRIVATE_FOLDER = 0o600, 0o700
STATE_FOLDER = Path("/var/lib/fisherfleet-edge")
SERVICE_USER = "fisherfleet"


@dataclass(frozen=True)
class DeviceFile:
    """A file for the device: where it stands in `/var/lib/fisherfleet-edge`, with slashes, and where it is here."""

    name: str
    source: Path


def device_files(folder: Path) -> tuple[DeviceFile, ...]:
    """What of `folder` goes to the device, in the order of names; a state folder beside it does not.

    Raises `FlashError` where the folder makes no device, or holds what is no plain file.
    """
    if not folder.is_dir():
        makers = "`fisherfleet devices provision` or `fisherfleet fleet add`"
        raise FlashError(f"{folder} is not there, expected the folder that {makers} made for the device")
    enrolled, enrols = (folder / CONFIG).exists(), (folder / ENROLMENT).exists()
    if enrolled == enrols:
        there = "both are there" if enrolled else "neither is there"
        raise FlashError(f"{folder} must hold {CONFIG} with {IDENTITY}/, or {ENROLMENT}: {there}")
    if enrolled and not (folder / IDENTITY / "device.key").exists():
        raise FlashError(f"{folder / IDENTITY} has no device.key: a device without its keys is not in the fleet")
    own = [folder / name for name in (CONFIG, ENROLMENT, DATA, AUTHORITY)]
    found = [path for path in (*own, *sorted((folder / IDENTITY).glob("*"))) if path.exists() or path.is_symlink()]
    for path in found:
        if path.is_symlink() or not path.is_file():
            raise FlashError(f"{path} must be a plain file")
    return tuple(sorted((DeviceFile(str(path.relative_to(folder)), path) for path in found), key=lambda one: one.name))
