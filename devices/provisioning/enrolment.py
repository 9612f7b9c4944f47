"""Which devices belong to a fleet: add, list and revoke them.

A device is in the registry once everything it needs is in its folder, so that a command cut short and repeated goes on
with the same keys.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from server.errors import ProvisioningError
from server.fleet.authority_folder import (
    CERTIFICATE,
    AuthorityFolder,
    ensure_credentials,
    load_certificate,
)
from server.fleet.certificates import Subject, Validity
from server.fleet.durable_files import make_folder, sync_tree, write_file
from server.fleet.fleet_folder import (
    CERTIFICATE_DAYS,
    DEVICE_KEY_NAME,
    FLEET_NAME,
    FleetFolder,
    broker_hosts,
    read_registry,
    require_device_name,
    write_registry,
)
from server.registry import Enrolled
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.identity import load_identities, new_identity, save_identities
from wire_protocol.toml_text import toml_text

CONFIG_NAME = "device.toml"
MQTTS_PORT, HTTP_PORT = 8883, 8765


@dataclass(frozen=True)
class Surroundings:
    """What new devices are told: broker and server (None: on the broker's first host) and how long certificates last.

    Without `tls` devices get no certificate, for a broker on the same machine. `settings` are more keys and tables of
    a device's `device.toml`, by its name.
    """

    broker: str | None = None
    server: str | None = None
    days: float = CERTIFICATE_DAYS
    tls: bool = True
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.broker is not None:
            parse_broker_url(self.broker)


@dataclass(frozen=True)
class Member:
    """A device of a fleet; `certificate_ends` is None where its folder is not here or has no certificate."""

    name: str
    keys: int
    revoked: bool
    folder: Path | None
    certificate_ends: datetime | None


def add_devices(
    folder: FleetFolder,
    names: Sequence[str],
    around: Surroundings,
    now: datetime,
    *,
    replace: bool = False,
    durably: bool = True,
) -> list[str]:
    """Make the folders of devices and register their keys; returns those that are new, for the rest nothing changes.

    With `replace` a revoked device's name goes to a new device, with new keys. Not `durably` is for fleets that do not
    outlive the process.
    """
    registry = read_registry(folder)
    for name in names:
        require_device_name(name)
        if name in registry and registry[name].revoked and not replace:
            raise ProvisioningError(
                f"{name} was revoked; give its name to a new device with: "
                f"fisherfleet fleet add {folder.path} {name} --replace"
            )
    issuer = AuthorityFolder.open(folder.authority)
    new = [name for name in dict.fromkeys(names) if name not in registry or registry[name].revoked]
    for name in new:
        again = name in registry
        registry[name] = _enrol(folder, name, issuer if around.tls else None, Validity.lasting(around.days, now), again)
        _write_config(folder, name, around)
    for name in new if durably else ():
        sync_tree(folder.device(name))
    write_registry(folder, registry)
    return new


def list_devices(folder: FleetFolder) -> list[Member]:
    """All devices in the order of their names."""
    return [
        Member(name, len(one.keys), one.revoked, _present(folder.device(name)), certificate_end(folder.identity(name)))
        for name, one in sorted(read_registry(folder).items())
    ]


def certificate_end(place: Path) -> datetime | None:
    """When the certificate in a folder ends; None where there is none."""
    path = place / CERTIFICATE
    return load_certificate(path).not_valid_after_utc if path.exists() else None


def _enrol(folder: FleetFolder, name: str, issuer: AuthorityFolder | None, validity: Validity, again: bool) -> Enrolled:
    """Write a device's `identity/`; a revoked device's is made anew."""
    make_folder(folder.device(name))
    identity = make_folder(folder.identity(name), private=True)
    key = identity / DEVICE_KEY_NAME
    if again or not key.exists():
        save_identities(key, [new_identity()])
    write_file(identity / FLEET_NAME, folder.fleet_file.read_bytes(), durably=False)
    if issuer is not None:
        ensure_credentials(issuer, identity, Subject(name), validity, fresh_key=again)
    return Enrolled(tuple(one.public for one in load_identities(key)))


def _write_config(folder: FleetFolder, name: str, around: Surroundings) -> None:
    """Write `device.toml`; one that is there is the user's and stays."""
    path = folder.device(name) / CONFIG_NAME
    if path.exists():
        return
    broker, server = addresses(folder, around)
    known = {
        "device": name,
        "broker": broker,
        "server": server,
        "identity": "identity",
        "data": "data.npz",
    }
    write_file(path, toml_text({**known, **around.settings.get(name, {})}).encode(), durably=False)


def addresses(folder: FleetFolder, around: Surroundings) -> tuple[str, str]:
    """The URLs of broker and server that new devices are told; what is not given is on the broker's first host."""
    host = broker_hosts(folder)[0]
    shown = f"[{host}]" if ":" in host else host
    return around.broker or f"mqtts://{shown}:{MQTTS_PORT}", around.server or f"http://{shown}:{HTTP_PORT}"


def _present(place: Path) -> Path | None:
    return place if place.is_dir() else None
