"""Devices' own folders, ready to be flashed: keys, certificate and configuration by the kind of device, and its data.

With a token in place of keys, the device makes these itself at its first start, and no private key is ever here.
Everything can be repeated: what is there stays, and what is missing is made.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from devices.flashing.board_file import write_board
from devices.flashing.device_folder import AUTHORITY, CONFIG, DATA, ENROLMENT
from devices.profiles.profile import Profile
from devices.provisioning.device_list import WantedDevice
from devices.provisioning.enrolment import Surroundings, add_devices
from edge_client.updates.consent import Consent
from server.errors import ProvisioningError
from server.fleet.durable_files import PRIVATE, make_folder, sync_tree, write_file
from server.fleet.fleet_folder import DEVICE_KEY_NAME, FleetFolder, read_registry
from wire_protocol.toml_text import toml_text


def settings_of(profile: Profile, updates: Consent) -> dict[str, Any]:
    """What the `device.toml` of such a device says beside who it is and whom it serves; its owner allows `updates`."""
    training = profile.training
    limits: dict[str, Any] = {"memory_mb": training.memory_mb}
    if training.max_temperature is not None:
        limits["max_temperature"] = training.max_temperature
    settings = {"threads": training.threads, "limits": limits}
    return settings if updates == Consent() else settings | {"updates": asdict(updates)}


def provision_with_keys(
    folder: FleetFolder,
    wanted: Sequence[WantedDevice],
    around: Surroundings,
    out: Path,
    now: datetime,
    updates: Consent,
) -> list[str]:
    """Make the devices members of the fleet, and their folders in `out`; returns those that are new.

    `out` may be the fleet's own folder of devices. Raises `FisherfleetError`, also where a device is a member already
    and its key or configuration is not in the fleet's folder any more.
    """
    settings = {device.name: settings_of(device.profile, updates) for device in wanted}
    _require_folders(folder, settings)
    new = add_devices(folder, list(settings), replace(around, settings=settings), now)
    for device in wanted:
        home = folder.device(device.name)
        if out.resolve() != folder.devices.resolve():
            make_folder(out)
            home = Path(shutil.copytree(home, out / device.name, dirs_exist_ok=True))
        _complete(home, device)
    return new


def provision_with_tokens(
    wanted: Sequence[WantedDevice],
    server: str,
    authority: bytes | None,
    out: Path,
    token: Callable[[str], str],
    updates: Consent,
) -> list[str]:
    """Make folders in `out` with which devices enrol themselves; returns those that got a token now.

    `server` is its URL as devices reach it, `authority` certificates (PEM) that may have signed the server's, and
    `token(name)` makes a token for the device of this name. Raises `FisherfleetError`.
    """
    new = []
    for device in wanted:
        home = make_folder(out / device.name, private=True)
        if not (home / ENROLMENT).exists() and not (home / CONFIG).exists():
            known = {"server": server, "device": device.name, "token": token(device.name)}
            if authority is not None:
                write_file(home / AUTHORITY, authority)
                known["ca_file"] = AUTHORITY
            settings = settings_of(device.profile, updates)
            write_file(home / ENROLMENT, toml_text({**known, **settings}).encode(), mode=PRIVATE)
            new.append(device.name)
        _complete(home, device)
    return new


def _require_folders(folder: FleetFolder, names: Collection[str]) -> None:
    """A device's key is on no other machine than its own once its folder has gone: nothing can be made of the rest."""
    members = [name for name, one in read_registry(folder).items() if name in names and not one.revoked]
    gone = [
        name
        for name in members
        if not ((folder.identity(name) / DEVICE_KEY_NAME).exists() and (folder.device(name) / CONFIG).exists())
    ]
    if gone:
        raise ProvisioningError(
            f"in the fleet already, but without key and {CONFIG} in {folder.devices}: {', '.join(gone)}; leave out who "
            f"works, give a new device a name of its own, or free a name: fisherfleet fleet revoke {folder.path} "
            f"{gone[0]}, then fisherfleet fleet add {folder.path} {gone[0]} --replace"
        )


def _complete(home: Path, device: WantedDevice) -> None:
    if device.data is not None:
        shutil.copyfile(device.data, home / DATA)
    write_board(home, device.board)
    sync_tree(home)
