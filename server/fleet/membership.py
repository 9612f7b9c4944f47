"""Who comes into a fleet by a request of its own, and who goes out of it.

Whoever calls holds the fleet's folder (`durable_files.locked`), as a command may change it at the same time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from server.errors import ConflictError
from server.fleet.authority_folder import REVOKED, AuthorityFolder
from server.fleet.certificates import Subject, Validity, encode_certificate
from server.fleet.durable_files import write_file
from server.fleet.fleet_folder import CERTIFICATE_DAYS, FleetFolder, read_registry, require_device_name, write_registry
from server.registry import Enrolled
from wire_protocol.errors import InvalidValueError, require
from wire_protocol.identity import PublicKeys


@dataclass(frozen=True)
class Applicant:
    """Who wants to be in the fleet: a name, public keys, and the key that its certificate is to be for.

    Raises `InvalidValueError` for a name that no device may have.
    """

    device: str
    keys: PublicKeys
    tls_key: ec.EllipticCurvePublicKey

    def __post_init__(self) -> None:
        require_device_name(self.device)

    @property
    def digest(self) -> bytes:
        """SHA-256 of all of it: another applicant has another one."""
        tls_key = self.tls_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        return sha256(self.keys.verifying + self.keys.sealing + tls_key + self.device.encode()).digest()


def read_request(device: str, pem: str) -> ec.EllipticCurvePublicKey:
    """The key of a certificate request (PKCS #10, PEM) that its owner has signed; raises `InvalidValueError`."""
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        key, valid = request.public_key(), request.is_signature_valid
        names = [name.value for name in request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidValueError(f"csr must be a certificate request in PEM: {error}") from error
    require(valid, "csr", "one with another's signature", "signed by the key that it is for")
    require(names == [device], "common name of csr", names, device)
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise InvalidValueError("csr must be for an ECDSA key on P-256")
    return key


def enrol_device(folder: FleetFolder, applicant: Applicant, now: datetime) -> bytes:
    """Take a device into the fleet: its certificate (PEM). The same device again gets another certificate.

    Raises `ConflictError` where the name is another device's or was revoked, and `ProvisioningError` without the
    authority's key.
    """
    name, registry = applicant.device, read_registry(folder)
    enrolled = Enrolled((applicant.keys,))
    if registry.get(name, enrolled) != enrolled:
        raise ConflictError(f"device {name} is in the fleet with other keys, or was revoked: choose another name")
    issuer = AuthorityFolder.open(folder.authority)
    certificate = issuer.issue(Subject(name), applicant.tls_key, Validity.lasting(CERTIFICATE_DAYS, now))
    write_registry(folder, {**registry, name: enrolled})
    return encode_certificate(certificate)


def revoke_device(folder: FleetFolder, name: str, now: datetime) -> bool:
    """Take a device out of the fleet: its keys and every certificate it ever got; False where it was out already."""
    registry = read_registry(folder)
    require(name in registry, "device", name, f"a device of the fleet ({', '.join(sorted(registry)) or 'it has none'})")
    issuer = AuthorityFolder.open(folder.authority)
    listed = issuer.revoke(name, now)
    write_file(folder.broker / REVOKED, issuer.revocation_list)
    was = registry[name]
    write_registry(folder, {**registry, name: Enrolled(was.keys, revoked=True)})
    return listed or not was.revoked
