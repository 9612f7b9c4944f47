"""As whom the doctor connects: as a server and two devices of the fleet, as one device, or as nobody in particular.

With a fleet's folder it signs certificates for itself that last an hour and leaves none behind; so neither the real
server nor any device loses its connection.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.errors import DoctorError
from server.fleet.authority_folder import (
    AUTHORITY_CERTIFICATE,
    CERTIFICATE,
    KEY,
    AuthorityFolder,
    load_certificate,
)
from server.fleet.certificates import Subject, Validity, common_name, encode_certificate, encode_key, new_key
from server.fleet.durable_files import PRIVATE, write_file
from server.fleet.fleet_folder import open_fleet
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.identity import read_private
from wire_protocol.topics import SERVER_NAMES

DOCTOR = SERVER_NAMES[1]
DEVICE, OTHER = f"{DOCTOR}-1", f"{DOCTOR}-2"
_DAYS = 1 / 24


@dataclass(frozen=True)
class Seat:
    """A client of the broker: its id, and what it shows to prove it. `tls` None is plain TCP."""

    broker: BrokerUrl
    name: str
    tls: ssl.SSLContext | None
    certificate_ends: datetime | None = None

    def named(self, name: str) -> Seat:
        """The same proof under another client id."""
        return replace(self, name=name)


@dataclass(frozen=True)
class Seats:
    """`server` and `other` are None where only one device's identity is at hand.

    `ruled`: the three are different users, so access rules can be tried. `stranger` has no certificate.
    """

    device: Seat
    server: Seat | None = None
    other: Seat | None = None
    ruled: bool = False
    stranger: Seat | None = None


def plain_seats(broker: BrokerUrl, ca_file: Path | None) -> Seats:
    """The URL's user and password, or nobody, for all three."""
    tls = client_tls(ca_file, None) if broker.tls else None
    return Seats(Seat(broker, DEVICE, tls), Seat(broker, DOCTOR, tls), Seat(broker, OTHER, tls))


def device_seats(broker: BrokerUrl, identity: Path, ca_file: Path | None) -> Seats:
    """One device, by its folder `identity/`."""
    path = identity / CERTIFICATE
    if not path.exists():
        raise DoctorError(f"{identity} holds no {CERTIFICATE}, so there is nothing to prove; leave --identity out")
    certificate = load_certificate(path)
    tls = client_tls(ca_file or identity / AUTHORITY_CERTIFICATE, identity) if broker.tls else None
    return Seats(Seat(broker, common_name(certificate), tls, certificate.not_valid_after_utc))


@contextmanager
def fleet_seats(broker: BrokerUrl, path: Path, ca_file: Path | None) -> Iterator[Seats]:
    """Three members that the fleet's authority vouches for; their keys are gone at the end."""
    folder = open_fleet(path)
    if not broker.tls:
        yield plain_seats(broker, None)
        return
    issuer = AuthorityFolder.open(folder.authority)
    trusted = ca_file or folder.server / AUTHORITY_CERTIFICATE
    with TemporaryDirectory(prefix="fisherfleet-doctor-") as place:
        device, server, other = (
            _issued_seat(broker, issuer, name, trusted, Path(place)) for name in (DEVICE, DOCTOR, OTHER)
        )
        stranger = Seat(broker, OTHER, client_tls(trusted, None))
        yield Seats(device, server, other, ruled=True, stranger=stranger)


def client_tls(ca_file: Path | None, identity: Path | None) -> ssl.SSLContext:
    """Trust what `ca_file` signed, the system's authorities where None; show the certificate of `identity`."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
        if identity is not None:
            read_private(identity / KEY)
            context.load_cert_chain(identity / CERTIFICATE, identity / KEY)
    except OSError as error:
        where = identity if isinstance(error, ssl.SSLError) and identity else ca_file
        raise DoctorError(f"the certificates in {where} cannot be used: {error}") from error
    return context


def _issued_seat(broker: BrokerUrl, issuer: AuthorityFolder, name: str, trusted: Path, place: Path) -> Seat:
    folder = place / name
    folder.mkdir()
    key = new_key()
    validity = Validity.lasting(_DAYS, datetime.now(UTC))
    certificate = issuer.authority.issue(Subject(name), key.public_key(), validity)
    write_file(folder / KEY, encode_key(key), mode=PRIVATE)
    write_file(folder / CERTIFICATE, encode_certificate(certificate))
    return Seat(broker, name, client_tls(trusted, folder), certificate.not_valid_after_utc)
