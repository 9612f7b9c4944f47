"""New keys and certificates while a fleet works.

Keys are changed in two steps, with two valid ones between: first the new ones are made and spread, then the old ones
are dropped (`finish`). Certificates near their end are renewed for the key they have, so only `tls.pem` is copied.

While a device's keys are changed the registry lists the old ones first: the server seals for the first, and the device
opens with both once it has its new file. The operator's new keys come first, as devices seal for the first of the
`fleet.json` that they have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from devices.provisioning.enrolment import certificate_end
from server.errors import ProvisioningError
from server.fleet.authority_folder import (
    CERTIFICATE,
    REVOKED,
    AuthorityFolder,
    ensure_credentials,
    load_certificate,
    renew_certificate,
)
from server.fleet.certificates import Subject, Validity
from server.fleet.durable_files import make_folder, write_file
from server.fleet.fleet_folder import (
    BROKER,
    CERTIFICATE_DAYS,
    DEVICE_KEY_NAME,
    FLEET_NAME,
    SERVER,
    FleetFolder,
    operator_identities,
    publish_operator,
    read_registry,
    write_registry,
)
from server.registry import Enrolled
from wire_protocol.errors import require
from wire_protocol.identity import Identity, load_fleet, load_identities, new_identity, save_identities


@dataclass(frozen=True)
class Renewed:
    """A certificate that was renewed: whose, its file and its new end."""

    name: str
    path: Path
    ends: datetime


def begin_operator_rotation(folder: FleetFolder) -> bool:
    """Give the operator a second identity and publish both; False where there were two already."""
    identities = operator_identities(folder)
    if len(identities) == 1:
        save_identities(folder.operator_key, [new_identity(), *identities])
    publish_operator(folder, load_fleet(folder.fleet_file).name)
    return len(identities) == 1


def finish_operator_rotation(folder: FleetFolder) -> bool:
    """Drop the operator's older identity; False where there was one only."""
    identities = operator_identities(folder)
    save_identities(folder.operator_key, identities[:1])
    publish_operator(folder, load_fleet(folder.fleet_file).name)
    return len(identities) > 1


def begin_device_rotation(folder: FleetFolder, name: str, now: datetime, days: float = CERTIFICATE_DAYS) -> bool:
    """Give a device a second identity and a new TLS key and certificate; False where that was done already."""
    registry = read_registry(folder)
    keys = _valid(registry, name).keys
    if len(keys) > 1:
        return False
    place = make_folder(folder.identity(name), private=True)
    file = place / DEVICE_KEY_NAME
    there = load_identities(file) if file.exists() else ()
    fresh = _begun(there, keys[0].key_id) or new_identity()
    save_identities(file, [fresh, *(old for old in there if old.public == keys[0])])
    write_file(place / FLEET_NAME, folder.fleet_file.read_bytes())
    if (place / CERTIFICATE).exists() or not there:
        issuer = AuthorityFolder.open(folder.authority)
        ensure_credentials(issuer, place, Subject(name), Validity.lasting(days, now), fresh_key=True)
    write_registry(folder, {**registry, name: Enrolled((keys[0], fresh.public))})
    return True


def finish_device_rotation(folder: FleetFolder, name: str, now: datetime) -> bool:
    """Drop a device's older identity and revoke its older certificates; False where it has one identity only."""
    registry = read_registry(folder)
    keys = _valid(registry, name).keys
    if len(keys) == 1:
        return False
    place = folder.identity(name)
    if (place / CERTIFICATE).exists():
        issuer = AuthorityFolder.open(folder.authority)
        issuer.revoke(name, now, keep=load_certificate(place / CERTIFICATE).serial_number)
        write_file(folder.broker / REVOKED, issuer.revocation_list)
    file = place / DEVICE_KEY_NAME
    if file.exists():
        save_identities(file, [one for one in load_identities(file) if one.public == keys[-1]])
    write_registry(folder, {**registry, name: Enrolled(keys[-1:])})
    return True


def renew_certificates(
    folder: FleetFolder, names: Sequence[str], within: timedelta, now: datetime, days: float = CERTIFICATE_DAYS
) -> list[Renewed]:
    """Renew what ends within a time, or, where names are given, those whatever their end.

    Names are of devices, or `broker` or `server`. Nothing is issued to a revoked device.
    """
    places = dict(_places(folder))
    for name in names:
        require(name in places, "name", name, f"one of {', '.join(places)}")
    issuer = AuthorityFolder.open(folder.authority)
    renewed = []
    for name, place in places.items():
        end = certificate_end(place)
        due = name in names if names else end is not None and end - now < within
        if due and end is not None:
            fresh = renew_certificate(issuer, place / CERTIFICATE, Validity.lasting(days, now))
            renewed.append(Renewed(name, place / CERTIFICATE, fresh.not_valid_after_utc))
    return renewed


def _places(folder: FleetFolder) -> Iterator[tuple[str, Path]]:
    """Where certificates are that may be renewed."""
    yield BROKER, folder.broker
    yield SERVER, folder.server
    for name, one in read_registry(folder).items():
        if not one.revoked and certificate_end(folder.identity(name)) is not None:
            yield name, folder.identity(name)


def _valid(registry: dict[str, Enrolled], name: str) -> Enrolled:
    devices = [device for device, one in registry.items() if not one.revoked]
    if name in registry and registry[name].revoked:
        raise ProvisioningError(f"{name} was revoked: its keys cannot be changed")
    require(name in devices, "name", name, f"operator or one of {', '.join(devices) or 'no devices'}")
    return registry[name]


def _begun(there: Sequence[Identity], registered: bytes) -> Identity | None:
    """The new identity of a rotation that was cut short before it reached the registry."""
    return next((one for one in there if one.public.key_id != registered), None)
