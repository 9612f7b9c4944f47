"""Certificates of a small authority of one's own: X.509 version 3 (RFC 5280), ECDSA on P-256 with SHA-256.

The common name of a device's or server's certificate is its MQTT client id and user name. The broker's certificate
names the hosts that it is reached at (RFC 6125). Everything here is pure: keys, dates and serial numbers go in and out,
files are `authority.py`'s.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wire_protocol.errors import require

Key = ec.EllipticCurvePrivateKey
PublicKey = ec.EllipticCurvePublicKey

CLOCK_SLACK = timedelta(days=1)
"""Certificates begin so much earlier, for devices whose clock is behind."""

_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9-]{0,62})(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62}))*\.?")


@dataclass(frozen=True)
class Validity:
    """From when to when a certificate holds (UTC)."""

    begin: datetime
    end: datetime

    def __post_init__(self) -> None:
        require(self.begin < self.end, "end of validity", self.end.isoformat(), f"after {self.begin.isoformat()}")

    @classmethod
    def lasting(cls, days: float, now: datetime) -> Validity:
        """So many days from `now` on."""
        return cls(now - CLOCK_SLACK, now + timedelta(days=days))


@dataclass(frozen=True)
class Subject:
    """Whom a certificate names; one with `hosts` is a broker's, one without a client's."""

    name: str
    hosts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for host in self.hosts:
            require_host(host)


@dataclass(frozen=True)
class Authority:
    """The key that signs and the certificate that everybody trusts; the key is never printed."""

    key: Key
    certificate: x509.Certificate

    def __repr__(self) -> str:
        return f"Authority({common_name(self.certificate)!r})"

    def issue(self, subject: Subject, public_key: PublicKey, validity: Validity) -> x509.Certificate:
        """A certificate with a random serial number; it ends with the authority's own at the latest."""
        end = min(validity.end, self.certificate.not_valid_after_utc)
        builder = _builder(subject.name, public_key, Validity(validity.begin, end))
        builder = builder.issuer_name(self.certificate.subject)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(_usage(digital_signature=True), critical=True)
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if subject.hosts else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        if subject.hosts:
            names = [_general_name(host) for host in subject.hosts]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        builder = builder.add_extension(self._key_identifier(), critical=False)
        return builder.sign(self.key, SHA256())

    def revocation_list(self, revoked: Mapping[int, datetime], number: int, updated: datetime) -> bytes:
        """A list (PEM) of the serial numbers that hold no more, and since when.

        OpenSSL takes the list with the latest `updated` and refuses everyone once a list's next update is due, so that
        is when the authority ends.
        """
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.certificate.subject)
        builder = builder.last_update(updated).next_update(self.certificate.not_valid_after_utc)
        builder = builder.add_extension(x509.CRLNumber(number), critical=False)
        builder = builder.add_extension(self._key_identifier(), critical=False)
        for serial, since in sorted(revoked.items()):
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since)
            builder = builder.add_revoked_certificate(entry.build())
        return builder.sign(self.key, SHA256()).public_bytes(Encoding.PEM)

    def has_issued(self, certificate: x509.Certificate) -> bool:
        """Whether a certificate bears this authority's signature."""
        try:
            certificate.verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def _key_identifier(self) -> x509.AuthorityKeyIdentifier:
        public_key = self.key.public_key()
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(public_key)


def new_authority(name: str, key: Key, validity: Validity) -> Authority:
    """An authority whose certificate it has signed itself."""
    builder = _builder(name, key.public_key(), validity)
    builder = builder.issuer_name(_x509_name(name))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return Authority(key, builder.sign(key, SHA256()))


def new_key() -> Key:
    """A fresh key from the system's random source."""
    return ec.generate_private_key(ec.SECP256R1())


def encode_key(key: Key) -> bytes:
    """PKCS #8 in PEM, not encrypted: the file's mode protects it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def decode_key(content: bytes) -> Key:
    """Read `encode_key`'s PEM; raises `ValueError`."""
    key = load_pem_private_key(content, None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("not an ECDSA key")
    return key


def encode_certificate(certificate: x509.Certificate) -> bytes:
    """PEM."""
    return certificate.public_bytes(Encoding.PEM)


def same_key(certificate: x509.Certificate, public_key: PublicKey) -> bool:
    """Whether a certificate is for this key."""
    return certificate.public_key() == public_key


def common_name(certificate: x509.Certificate) -> str:
    """The common name of whom a certificate is for; empty where it has none."""
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if names else ""


def hosts_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The host names and addresses that a certificate is for, in its order."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return ()
    return tuple(str(name.value) for name in names if isinstance(name, (x509.DNSName, x509.IPAddress)))


def require_host(host: str) -> str:
    """Return `host` where it can stand in a certificate, else raise `InvalidValueError`."""
    require(_is_address(host) or _HOST.fullmatch(host) is not None, "host", host, "a host name or an IP address")
    return host


def _builder(name: str, public_key: PublicKey, validity: Validity) -> x509.CertificateBuilder:
    builder = x509.CertificateBuilder().subject_name(_x509_name(name)).public_key(public_key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(validity.begin).not_valid_after(validity.end)
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)


def _x509_name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _usage(**granted: bool) -> x509.KeyUsage:
    uses: Sequence[str] = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**{use: granted.get(use, False) for use in uses})


def _general_name(host: str) -> x509.GeneralName:
    return x509.IPAddress(ipaddress.ip_address(host)) if _is_address(host) else x509.DNSName(host)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
