"""What makes a device itself: the folder `identity/`, read and checked at start.

    fleet.json             the fleet's name and the operator's public keys, which this device pins
    device.key             the device's own keys, one or two identities, the newest first
    ca.pem                 TLS: the certificate authority of the fleet's broker
    tls.pem, tls.key       TLS: the device's certificate and its key

Private keys that others than their owner can read are refused. Errors say how to mend what is wrong.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from edge_client.config import DeviceConfig
from edge_client.errors import ConfigError
from wire_protocol.envelope import Context, open_sealed, seal, sign, verify
from wire_protocol.identity import Fleet, Identity, IdentityError, load_fleet, load_identities, read_private

if TYPE_CHECKING:
    from cryptography import x509

logger = logging.getLogger(__name__)

FLEET_FILE, KEY_FILE = "fleet.json", "device.key"
CA_FILE, CERTIFICATE_FILE, TLS_KEY_FILE = "ca.pem", "tls.pem", "tls.key"


@dataclass(frozen=True)
class Credentials:
    """A device's name, its keys (the newest first), and the fleet it belongs to."""

    device: str
    fleet: Fleet
    identities: tuple[Identity, ...]

    def seal_update(self, run: str, number: int, body: bytes) -> bytes:
        """An update or a decline for the operator's eyes."""
        context = Context("update", self.fleet.name, run, number, self.device)
        return seal(body, context, self.identities[:1], self.fleet.operator[0])

    def open_slice(self, run: str, number: int, payload: bytes) -> bytes:
        """The body of a slice for this device; raises `ProtocolError`."""
        context = Context("slice", self.fleet.name, run, number, self.device)
        return open_sealed(payload, context, self.identities, self.fleet.operator)

    def sign_want(self, body: bytes) -> bytes:
        """A request for a file."""
        return sign(body, Context("want", self.fleet.name, device=self.device), self.identities[:1])

    def open_file(self, path: str, payload: bytes) -> bytes:
        """The content of a file sealed for this device; raises `ProtocolError`."""
        context = Context("file", self.fleet.name, path, device=self.device)
        return open_sealed(payload, context, self.identities, self.fleet.operator)

    def verify_plan(self, run: str, payload: bytes) -> bytes:
        """The body of the operator's plan for a run; raises `ProtocolError`."""
        return verify(payload, Context("plan", self.fleet.name, run), self.fleet.operator)

    def verify_need(self, payload: bytes) -> bytes:
        """The body of a need for this device; raises `ProtocolError`."""
        return verify(payload, Context("need", self.fleet.name, device=self.device), self.fleet.operator)

    def verify_receipt(self, payload: bytes) -> bytes:
        """The body of a receipt for this device; raises `ProtocolError`."""
        return verify(payload, Context("receipt", self.fleet.name, device=self.device), self.fleet.operator)

    def verify_release(self, payload: bytes) -> bytes:
        """The body of the operator's word on a release; raises `ProtocolError`."""
        return verify(payload, Context("release", self.fleet.name), self.fleet.operator)

    def verify_release_offer(self, payload: bytes) -> bytes:
        """The body of an offer of a release for this device; raises `ProtocolError`."""
        return verify(payload, Context("release-offer", self.fleet.name, device=self.device), self.fleet.operator)

    def verify_model(self, run: str, payload: bytes) -> bytes:
        """The body of the operator's word on a run's promoted model; raises `ProtocolError`."""
        return verify(payload, Context("model", self.fleet.name, run), self.fleet.operator)

    def sign_report(self, body: bytes) -> bytes:
        """A word on what this device runs."""
        return sign(body, Context("report", self.fleet.name, device=self.device), self.identities[:1])


def load_credentials(config: DeviceConfig) -> Credentials:
    """Read the folder; raises `IdentityError`."""
    folder = config.identity
    if not folder.is_dir():
        raise IdentityError(
            f"identity {folder} does not exist, expected the folder that the operator made for this device: copy it "
            f"from devices/{config.device} of the fleet's folder"
        )
    return Credentials(config.device, load_fleet(folder / FLEET_FILE), load_identities(folder / KEY_FILE))


def broker_tls(config: DeviceConfig) -> ssl.SSLContext | None:
    """How to speak TLS with the broker, None for plain TCP; raises `ConfigError` or `IdentityError`.

    Only the fleet's own authority (or `ca_file`) is trusted where there is one, else the system's.
    """
    if not config.broker.tls:
        return None
    own = config.identity / CA_FILE
    context = _context(config.ca_file or (own if own.is_file() else None))
    certificate, key = config.identity / CERTIFICATE_FILE, config.identity / TLS_KEY_FILE
    if certificate.is_file():
        read_private(key)
        _check_certificate(certificate, config.device)
        try:
            context.load_cert_chain(certificate, key)
        except (OSError, ValueError) as error:
            raise IdentityError(f"{certificate} and {key} cannot be used together: {error}") from error
    return context


def server_tls(config: DeviceConfig) -> ssl.SSLContext | None:
    """How to speak TLS with the server: trust the system's authorities and the fleet's, or only `ca_file`."""
    if not config.server.startswith("https:"):
        return None
    context = _context(config.ca_file)
    own = config.identity / CA_FILE
    if config.ca_file is None and own.is_file():
        _trust(context, own)
    return context


def _context(ca_file: Path | None) -> ssl.SSLContext:
    """A client's context, alike in every Python; without `ca_file` the system's authorities are trusted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if ca_file is None:
        context.load_default_certs()
    else:
        _trust(context, ca_file)
    return context


def _trust(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except OSError as error:
        raise ConfigError(f"{path} holds no certificates that can be read: {error}") from error


def read_certificate(path: Path) -> x509.Certificate:
    """A certificate in PEM; raises `IdentityError`."""
    from cryptography import x509  # noqa: PLC0415 - only where TLS is used

    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise IdentityError(f"{path} cannot be read as a certificate: {error}") from error


def _check_certificate(path: Path, device: str) -> None:
    """Say early what a broker would say late and darkly: another device's certificate, or one out of date."""
    from cryptography.x509 import NameOID  # noqa: PLC0415 - only where TLS is used

    certificate = read_certificate(path)
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    name = names[0].value if names else ""
    if name != device:
        raise IdentityError(f"{path} was issued for device {name!r}, this is {device}: copy the right folder")
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not first <= datetime.now(timezone.utc) <= last:
        logger.warning("%s is valid from %s to %s, this device's clock says otherwise", path, first, last)
