"""`fisherfleet-edge enrol`: make this device's keys here, show its public ones with a one-time token, and keep what
makes it one of the fleet's.

Private keys are made on the device and never leave it. What the server answers is taken only if it is what the token's
fingerprint says, so the operator's keys that this device will believe are those that the token's maker has. A command
cut short may be repeated: it goes on with the keys that are there.
"""

from __future__ import annotations

import argparse
import json
import os
import ssl
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from http.client import HTTPException
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from edge_client.config import require_server_url
from edge_client.credentials import CA_FILE, CERTIFICATE_FILE, FLEET_FILE, KEY_FILE, TLS_KEY_FILE
from edge_client.durable_files import write_durably
from edge_client.errors import EnrolmentError
from edge_client.tls_words import explain
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.enrolment import fingerprint, split_token
from wire_protocol.errors import FisherfleetError
from wire_protocol.identity import (
    PublicKeys,
    PublicKeysText,
    load_fleet,
    load_identities,
    new_identity,
    read_private,
    save_identities,
)
from wire_protocol.toml_text import toml_text
from wire_protocol.topics import require_identifier

EXIT_REFUSED = 2
CONFIG_FILE = "device.toml"
_IDENTITY_FOLDER = "identity"
_PATH = "/api/v1/enrol"
_TIMEOUT_SECONDS = 30.0
_LARGEST_ANSWER = 64 * 1024
_PRIVATE, _PRIVATE_FOLDER = 0o600, 0o700


class Answer(msgspec.Struct, frozen=True):
    """What the server sends: certificates in PEM, the fleet file, the broker's URL."""

    certificate: str
    authority: str
    fleet: str
    broker: str


@dataclass(frozen=True)
class Enrolment:
    """Who enrols where, the folder that is to hold its `device.toml` and `identity/`, and what else the former says."""

    server: str
    device: str
    out: Path
    ca_file: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require_identifier("device", self.device)

    @property
    def identity(self) -> Path:
        """Folder of the device's keys and certificates."""
        return self.out / _IDENTITY_FOLDER


def main(argv: Sequence[str] | None = None, prog: str = "fisherfleet-edge enrol") -> int:
    """Run the command; returns its exit status."""
    arguments = command_parser(prog).parse_args(argv)
    try:
        server = require_server_url(arguments.server)
        words = enrol(Enrolment(server, arguments.device, arguments.out, arguments.ca_file), arguments.token)
    except FisherfleetError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return EXIT_REFUSED
    except OSError as error:
        sys.stderr.write(f"{prog}: error: {arguments.out} cannot be written: {error}\n")
        return EXIT_REFUSED
    sys.stdout.write(f"{words}\n")
    return 0


def command_parser(prog: str) -> argparse.ArgumentParser:
    """The command's arguments."""
    made = argparse.ArgumentParser(
        prog=prog, description="Enrol this device in a fleet: make its keys here and write its device.toml."
    )
    made.add_argument("--server", required=True, metavar="URL", help="http://host:port or https://... of the server")
    made.add_argument(
        "--token", required=True, help="what `fisherfleet devices enrol-token` printed; - reads it from standard input"
    )
    made.add_argument("--device", required=True, metavar="NAME", help="the name that this device is to have")
    made.add_argument("--out", type=Path, default=Path(), metavar="FOLDER", help="folder for device.toml and identity/")
    made.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="certificates (PEM) that may have signed the server's"
    )
    return made


def enrol(enrolment: Enrolment, token: str) -> str:
    """Enrol, and write what the device needs; what to do next. Raises `FisherfleetError` and `OSError`."""
    secret, mark = split_token(sys.stdin.readline().strip() if token == "-" else token)
    config = enrolment.out / CONFIG_FILE
    if config.exists():
        raise EnrolmentError(f"{config} is there: this device is enrolled; choose another folder for another")
    keys, tls_key = _keys(enrolment.identity)
    request = {"token": secret, "device": enrolment.device, "csr": _request(enrolment.device, tls_key)}
    text = PublicKeysText.of(keys)
    answer = _ask(enrolment, request | {"verifying": text.verifying, "sealing": text.sealing})
    if fingerprint(answer.fleet, answer.authority) != mark:
        raise EnrolmentError(f"{enrolment.server} is not the server that this token is from: nothing of it was kept")
    _keep(enrolment, answer, tls_key)
    return (
        f"{enrolment.device} is in the fleet {load_fleet(enrolment.identity / FLEET_FILE).name}.\n"
        f"Put its data beside {config} as data.npz and run: fisherfleet-edge --config {config}"
    )


def _keys(identity: Path) -> tuple[PublicKeys, ec.EllipticCurvePrivateKey]:
    """The device's public keys and its TLS key; those that are missing are made."""
    identity.mkdir(parents=True, exist_ok=True)
    identity.chmod(_PRIVATE_FOLDER)
    if not (identity / KEY_FILE).exists():
        save_identities(identity / KEY_FILE, [new_identity()])
    path = identity / TLS_KEY_FILE
    if not path.exists():
        fresh = ec.generate_private_key(ec.SECP256R1())
        _write_private(path, fresh.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    try:
        key = load_pem_private_key(read_private(path), None)
    except (ValueError, TypeError) as error:
        raise EnrolmentError(f"{path} cannot be read as a private key in PEM: {error}") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise EnrolmentError(f"{path} holds another kind of key, expected ECDSA on P-256")
    return load_identities(identity / KEY_FILE)[0].public, key


def _write_private(path: Path, content: bytes) -> None:
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)


def _request(device: str, key: ec.EllipticCurvePrivateKey) -> str:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, device)])
    request = x509.CertificateSigningRequestBuilder().subject_name(name).sign(key, SHA256())
    return request.public_bytes(Encoding.PEM).decode()


def _ask(enrolment: Enrolment, body: dict[str, str]) -> Answer:
    request = urllib.request.Request(
        enrolment.server + _PATH, json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        trusted = ssl.create_default_context(cafile=enrolment.ca_file) if enrolment.server[:6] == "https:" else None
        with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS, context=trusted) as response:
            return msgspec.json.decode(response.read(_LARGEST_ANSWER), type=Answer)
    except urllib.error.HTTPError as error:
        with error:
            raise EnrolmentError(f"{enrolment.server} refused: {_detail(error)}") from error
    except (OSError, HTTPException) as error:
        raise EnrolmentError(f"{enrolment.server} cannot be asked: {explain(error, 'the server')}") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise EnrolmentError(f"{enrolment.server} answered what is no enrolment: {error}") from error


def _detail(error: urllib.error.HTTPError) -> str:
    """The problem's own words (RFC 9457), or the status."""
    try:
        detail = msgspec.json.decode(error.read(_LARGEST_ANSWER), type=dict[str, object])["detail"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, OSError, HTTPException):
        return f"HTTP status {error.code}"
    wait = error.headers.get("Retry-After")
    return f"{detail}; try again in {wait} s" if wait else str(detail)


def _keep(enrolment: Enrolment, answer: Answer, tls_key: ec.EllipticCurvePrivateKey) -> None:
    """Check the answer, then write it; `device.toml` last, as it says that all is there."""
    parse_broker_url(answer.broker)
    try:
        certificate = x509.load_pem_x509_certificate(answer.certificate.encode())
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(answer.authority.encode()))
        ours = certificate.public_key() == tls_key.public_key()
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as error:
        raise EnrolmentError(f"{enrolment.server} sent a certificate that cannot be used: {error}") from error
    if not ours:
        raise EnrolmentError(f"{enrolment.server} sent a certificate for another key")
    files = {FLEET_FILE: answer.fleet, CA_FILE: answer.authority, CERTIFICATE_FILE: answer.certificate}
    for name, content in files.items():
        write_durably(enrolment.identity / name, [content.encode()])
    known: dict[str, Any] = {"device": enrolment.device, "broker": answer.broker, "server": enrolment.server}
    known |= {"identity": _IDENTITY_FOLDER, "data": "data.npz"}
    write_durably(enrolment.out / CONFIG_FILE, [toml_text({**known, **enrolment.settings}).encode()])
