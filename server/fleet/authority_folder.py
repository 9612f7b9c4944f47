"""A fleet's certificate authority on disk: `ca.key`, `ca.pem`, `crl.pem` and `records.json`, what was issued to whom.

Invariants: a serial number is on record before its certificate exists, so that everything ever issued to a name can be
revoked; the revocation list is made from the records alone, each one's date later than the one's before.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from server.errors import ProvisioningError
from server.fleet.certificates import (
    CLOCK_SLACK,
    Authority,
    Key,
    PublicKey,
    Subject,
    Validity,
    common_name,
    decode_key,
    encode_certificate,
    encode_key,
    hosts_of,
    new_authority,
    new_key,
    same_key,
)
from server.fleet.durable_files import PRIVATE, make_folder, write_file
from wire_protocol.errors import require
from wire_protocol.identity import read_private

AUTHORITY_CERTIFICATE, CERTIFICATE, KEY, REVOKED = "ca.pem", "tls.pem", "tls.key", "crl.pem"
_AUTHORITY_KEY, _RECORDS = "ca.key", "records.json"
_FORMAT = 1
_SERIAL = re.compile(r"(?!0+$)([0-9a-f]{1,39}|[0-7][0-9a-f]{39})")
_LAST_SECOND = 253_402_300_799
"""Of the year 9999, the last that a certificate knows."""


class _Issued(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    serial: str
    ends: int

    def __post_init__(self) -> None:
        _require_serial(self.serial)


class _Records(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`revoked` maps serial numbers in hexadecimal to seconds since the epoch, as `ends` and `updated` are."""

    format: int = _FORMAT
    issued: tuple[_Issued, ...] = ()
    revoked: dict[str, int] = {}
    list_number: int = 0
    list_updated: int = 0

    def __post_init__(self) -> None:
        for serial, since in self.revoked.items():
            _require_serial(serial)
            require(0 <= since <= _LAST_SECOND, "revoked", since, f"0 to {_LAST_SECOND}")
        require(0 <= self.list_number < 2**63, "list_number", self.list_number, "0 to 2^63 - 1")
        require(0 <= self.list_updated < _LAST_SECOND, "list_updated", self.list_updated, f"0 to {_LAST_SECOND}")


class AuthorityFolder:
    """Issues and revokes; one process at a time."""

    def __init__(self, folder: Path, authority: Authority) -> None:
        self.folder = folder
        self.authority = authority

    @classmethod
    def ensure(cls, folder: Path, name: str, validity: Validity) -> AuthorityFolder:
        """Open the authority of a folder; what is missing of it is made."""
        make_folder(folder, private=True)
        key = ensure_key(folder / _AUTHORITY_KEY)
        if not (folder / AUTHORITY_CERTIFICATE).exists():
            fresh = new_authority(name, key, validity)
            write_file(folder / AUTHORITY_CERTIFICATE, encode_certificate(fresh.certificate))
        opened = cls.open(folder)
        if not (folder / REVOKED).exists():
            opened._publish(opened._records(), validity.begin + CLOCK_SLACK)
        return opened

    @classmethod
    def open(cls, folder: Path) -> AuthorityFolder:
        """Open an authority that is there; raises `ProvisioningError`."""
        key, certificate = load_key(folder / _AUTHORITY_KEY), load_certificate(folder / AUTHORITY_CERTIFICATE)
        if not same_key(certificate, key.public_key()):
            raise ProvisioningError(f"{folder / AUTHORITY_CERTIFICATE} is not the certificate of {_AUTHORITY_KEY}")
        return cls(folder, Authority(key, certificate))

    @property
    def revocation_list(self) -> bytes:
        """The newest list, PEM."""
        return (self.folder / REVOKED).read_bytes()

    def issue(self, subject: Subject, public_key: PublicKey, validity: Validity) -> x509.Certificate:
        """A certificate, on record before it is returned."""
        certificate = self.authority.issue(subject, public_key, validity)
        records = self._records()
        ends = int(certificate.not_valid_after_utc.timestamp())
        issued = _Issued(subject.name, f"{certificate.serial_number:x}", ends)
        self._write(msgspec.structs.replace(records, issued=(*records.issued, issued)))
        return certificate

    def revoke(self, name: str, now: datetime, *, keep: int | None = None) -> bool:
        """Revoke all that was issued to a name, but for the serial number `keep`; False where all of it was already."""
        records = self._records()
        current = "" if keep is None else f"{keep:x}"
        given = {issued.serial for issued in records.issued if issued.name == name} - {current}
        added = given - records.revoked.keys()
        if added:
            revoked = {**records.revoked, **dict.fromkeys(sorted(added), int(now.timestamp()))}
            records = msgspec.structs.replace(records, revoked=revoked)
            self._write(records)
        if added or not self._lists_all(records):
            self._publish(records, now)
        return bool(added)

    def _lists_all(self, records: _Records) -> bool:
        listed = x509.load_pem_x509_crl(self.revocation_list)
        return {f"{entry.serial_number:x}" for entry in listed} == records.revoked.keys()

    def _publish(self, records: _Records, now: datetime) -> None:
        """Write the list. Its date lies a day back, so that two in one second still have different, past dates."""
        updated = max(int((now - CLOCK_SLACK).timestamp()), records.list_updated + 1)
        number = records.list_number + 1
        self._write(msgspec.structs.replace(records, list_number=number, list_updated=updated))
        revoked = {int(serial, 16): _date(since) for serial, since in records.revoked.items()}
        content = self.authority.revocation_list(revoked, number, _date(updated))
        write_file(self.folder / REVOKED, content)

    def _records(self) -> _Records:
        path = self.folder / _RECORDS
        if not path.exists():
            return _Records()
        try:
            return msgspec.json.decode(path.read_bytes(), type=_Records)
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ProvisioningError(f"{path} cannot be read: {error}") from error

    def _write(self, records: _Records) -> None:
        content = msgspec.json.format(msgspec.json.encode(records)) + b"\n"
        write_file(self.folder / _RECORDS, content, mode=PRIVATE)


def ensure_credentials(
    issuer: AuthorityFolder, folder: Path, subject: Subject, validity: Validity, *, fresh_key: bool = False
) -> bool:
    """Put `ca.pem`, `tls.pem` and `tls.key` into a folder; what is there and fits stays. True when one was issued.

    A key without its certificate, as a power cut may leave it, gets a new certificate.
    """
    write_file(folder / AUTHORITY_CERTIFICATE, encode_certificate(issuer.authority.certificate))
    key = ensure_key(folder / KEY, fresh=fresh_key)
    path = folder / CERTIFICATE
    if path.exists() and _fits(load_certificate(path), issuer, subject, key.public_key()):
        return False
    write_file(path, encode_certificate(issuer.issue(subject, key.public_key(), validity)))
    return True


def renew_certificate(issuer: AuthorityFolder, path: Path, validity: Validity) -> x509.Certificate:
    """Replace a certificate by one for the same name, hosts and key, which need not be there."""
    old = load_certificate(path)
    public_key = old.public_key()
    if not isinstance(public_key, PublicKey):
        raise ProvisioningError(f"{path} is for another kind of key, expected ECDSA")
    fresh = issuer.issue(Subject(common_name(old), hosts_of(old)), public_key, validity)
    write_file(path, encode_certificate(fresh))
    return fresh


def ensure_key(path: Path, *, fresh: bool = False) -> Key:
    """The key of a file, made where missing or where a fresh one is wanted."""
    if fresh or not path.exists():
        write_file(path, encode_key(new_key()), mode=PRIVATE)
    return load_key(path)


def load_key(path: Path) -> Key:
    """Read a private key; raises `ProvisioningError`, or `IdentityError` where others could read it."""
    content = read_private(path)
    try:
        return decode_key(content)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ProvisioningError(f"{path} cannot be read as an ECDSA key in PEM") from error


def load_certificate(path: Path) -> x509.Certificate:
    """Read a certificate; raises `ProvisioningError`."""
    try:
        certificate = x509.load_pem_x509_certificate(path.read_bytes())
        certificate.public_key()
    except OSError as error:
        raise ProvisioningError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ProvisioningError(f"{path} is not a certificate in PEM, or for a key that is not known here") from error
    return certificate


def _fits(certificate: x509.Certificate, issuer: AuthorityFolder, subject: Subject, public_key: PublicKey) -> bool:
    named = Subject(common_name(certificate), hosts_of(certificate))
    return named == subject and same_key(certificate, public_key) and issuer.authority.has_issued(certificate)


def _require_serial(serial: str) -> None:
    require(_SERIAL.fullmatch(serial) is not None, "serial", serial, "1 to 2^159 - 1 in hexadecimal digits")


def _date(seconds: int) -> datetime:
    return datetime.fromtimestamp(0, UTC) + timedelta(seconds=seconds)
