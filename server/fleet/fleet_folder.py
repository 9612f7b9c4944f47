"""The operator's folder of a fleet::

    fleet.json         the fleet's name and the operator's public keys; every device pins a copy
    operator.key       the operator's private keys, one or two identities, the newest first
    devices.json       the devices' public keys, and who was revoked
    ca/                the certificate authority: keep it off the broker
    broker/            ca.pem, tls.pem, tls.key, crl.pem: for the broker
    server/            ca.pem, tls.pem, tls.key: for `fisherfleet serve`
    devices/NAME/      device.toml and identity/: to copy to that device

Everything is made where missing and kept where there, so that each command can be repeated, also after a power cut.
Private files have mode 0600.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from server.errors import ProvisioningError
from server.fleet.authority_folder import (
    CERTIFICATE,
    REVOKED,
    AuthorityFolder,
    ensure_credentials,
    load_certificate,
)
from server.fleet.certificates import Subject, Validity, hosts_of
from server.fleet.durable_files import make_folder, write_file
from server.registry import REGISTRY_NAME, Enrolled, decode_registry, encode_registry
from wire_protocol.errors import InvalidValueError, require
from wire_protocol.identity import (
    Fleet,
    Identity,
    encode_fleet,
    load_fleet,
    load_identities,
    new_identity,
    save_identities,
)
from wire_protocol.topics import SERVER_NAMES, require_identifier

FLEET_NAME, OPERATOR_KEY_NAME = "fleet.json", "operator.key"
IDENTITY_FOLDER, DEVICE_KEY_NAME = "identity", "device.key"
OPERATOR, SERVER, BROKER = "operator", "server", "broker"
AUTHORITY_DAYS = 20 * 365.0
CERTIFICATE_DAYS = 3 * 365.0
LOOPBACK = ("localhost", "127.0.0.1")

_RESERVED = (OPERATOR, BROKER, *SERVER_NAMES)
_RESERVED_STARTS = tuple(f"{name}-" for name in SERVER_NAMES)


@dataclass(frozen=True)
class FleetFolder:
    """Where everything of a fleet is."""

    path: Path

    @property
    def fleet_file(self) -> Path:
        """What devices pin."""
        return self.path / FLEET_NAME

    @property
    def operator_key(self) -> Path:
        """The operator's private keys."""
        return self.path / OPERATOR_KEY_NAME

    @property
    def registry(self) -> Path:
        """The devices' public keys."""
        return self.path / REGISTRY_NAME

    @property
    def authority(self) -> Path:
        """Folder of the certificate authority."""
        return self.path / "ca"

    @property
    def broker(self) -> Path:
        """What the broker needs."""
        return self.path / BROKER

    @property
    def server(self) -> Path:
        """What the server needs to reach the broker."""
        return self.path / SERVER

    @property
    def devices(self) -> Path:
        """The devices' folders."""
        return self.path / "devices"

    def device(self, name: str) -> Path:
        """A device's folder."""
        return self.devices / name

    def identity(self, name: str) -> Path:
        """A device's keys and certificates."""
        return self.device(name) / IDENTITY_FOLDER


def create_fleet(
    path: Path, name: str, hosts: tuple[str, ...], now: datetime, days: float = CERTIFICATE_DAYS
) -> FleetFolder:
    """Make a fleet folder or complete one of that name.

    `hosts` are the names and addresses that the broker is reached at; none keeps the broker's certificate, or makes one
    for this machine. Other hosts than before give the broker a new certificate.
    """
    folder = FleetFolder(path)
    require_identifier("fleet", name)
    if folder.fleet_file.exists():
        there = load_fleet(folder.fleet_file).name
        require(there == name, "name", name, f"{there!r}, as {path} holds that fleet")
    issuer = AuthorityFolder.ensure(folder.authority, f"Fisherfleet {name}", Validity.lasting(AUTHORITY_DAYS, now))
    validity = Validity.lasting(days, now)
    for place, subject in ((folder.broker, _broker_subject(folder, hosts)), (folder.server, Subject(SERVER))):
        make_folder(place)
        ensure_credentials(issuer, place, subject, validity)
    write_file(folder.broker / REVOKED, issuer.revocation_list)
    if not folder.registry.exists():
        write_file(folder.registry, encode_registry({}))
    if not folder.operator_key.exists():
        save_identities(folder.operator_key, [new_identity()])
    publish_operator(folder, name)
    return folder


def open_fleet(path: Path) -> FleetFolder:
    """A fleet folder that is there; raises `ProvisioningError` that says how to make one."""
    folder = FleetFolder(path)
    if not folder.fleet_file.exists():
        raise ProvisioningError(f"{path} holds no fleet; make one with: fisherfleet fleet init {path}")
    return folder


def operator_identities(folder: FleetFolder) -> tuple[Identity, ...]:
    """The operator's private keys, the newest first."""
    return load_identities(folder.operator_key)


def publish_operator(folder: FleetFolder, name: str) -> None:
    """Write `fleet.json` after the operator's keys, here and in the folder of each device."""
    keys = tuple(identity.public for identity in operator_identities(folder))
    content = encode_fleet(Fleet(name, keys))
    for place in sorted(folder.devices.glob(f"*/{IDENTITY_FOLDER}/{FLEET_NAME}")):
        write_file(place, content)
    write_file(folder.fleet_file, content)


def read_registry(folder: FleetFolder) -> dict[str, Enrolled]:
    """The devices by name; raises `ProvisioningError`."""
    try:
        return decode_registry(folder.registry.read_bytes())
    except OSError as error:
        raise ProvisioningError(f"{folder.registry} cannot be read: {error.strerror}") from error
    except InvalidValueError as error:
        raise ProvisioningError(f"{folder.registry}: {error}") from error


def write_registry(folder: FleetFolder, devices: dict[str, Enrolled]) -> None:
    """Replace the registry; a running server takes it up by itself."""
    write_file(folder.registry, encode_registry(dict(sorted(devices.items()))))


def broker_hosts(folder: FleetFolder) -> tuple[str, ...]:
    """The names and addresses in the broker's certificate, the first that was given first."""
    return hosts_of(load_certificate(folder.broker / CERTIFICATE))


def require_device_name(name: str) -> str:
    """Return `name` where a device may have it, else raise `InvalidValueError`."""
    require_identifier("device", name)
    free = name not in _RESERVED and not name.startswith(_RESERVED_STARTS)
    legal = f"other than {', '.join(_RESERVED)} and not starting with {' or '.join(_RESERVED_STARTS)}"
    require(free, "device", name, legal)
    return name


def _broker_subject(folder: FleetFolder, hosts: tuple[str, ...]) -> Subject:
    if not hosts and (folder.broker / CERTIFICATE).exists():
        hosts = broker_hosts(folder)
    given = hosts or (socket.gethostname(),)
    return Subject(BROKER, tuple(dict.fromkeys((*given, *LOOPBACK))))
