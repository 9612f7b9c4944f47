"""Who is who in a fleet: keys of the operator and of each device, and the files that hold them.

Everyone has an Ed25519 key to sign with (RFC 8032) and an X25519 key to open what is sealed for them (RFC 7748). Two
identities of one holder may be valid at a time, the newest first, so that keys can be changed while a fleet works.

A key file holds private keys as PEM (PKCS #8), signing key and opening key in turn, and is refused where others than
its owner could read it. A fleet file is public: the fleet's name and the operator's public keys, which devices pin.
"""

from __future__ import annotations

import os
import stat
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256
from pathlib import Path

import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from wire_protocol.durable_files import sync_folder
from wire_protocol.errors import FisherfleetError, InvalidValueError, require
from wire_protocol.topics import require_identifier

FLEET_FORMAT = 1
LARGEST_FLEET_FILE = 16 * 1024
MOST_VALID = 2
"""Identities of one holder that are valid at a time."""
KEY_BYTES = 32
KEY_ID_BYTES = 8

_PEM_END = b"-----END PRIVATE KEY-----\n"
_PROBE = X25519PrivateKey.from_private_bytes(bytes([1]) * KEY_BYTES)
_PRIVATE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class IdentityError(FisherfleetError):
    """A key file or a fleet file cannot be used."""


@dataclass(frozen=True)
class PublicKeys:
    """What others know of an identity: raw Ed25519 and X25519 public keys, 32 bytes each."""

    verifying: bytes
    sealing: bytes

    def __post_init__(self) -> None:
        for field in ("verifying", "sealing"):
            value: bytes = getattr(self, field)
            require(len(value) == KEY_BYTES, field, value.hex(), f"{KEY_BYTES} bytes")

    @cached_property
    def key_id(self) -> bytes:
        """The first 8 bytes of SHA-256 of both keys: a hint which to try, nothing rests on it."""
        return sha256(self.verifying + self.sealing).digest()[:KEY_ID_BYTES]

    @cached_property
    def verify_key(self) -> Ed25519PublicKey:
        """The key that checks signatures."""
        return Ed25519PublicKey.from_public_bytes(self.verifying)

    @cached_property
    def seal_key(self) -> X25519PublicKey:
        """The key to seal for."""
        return X25519PublicKey.from_public_bytes(self.sealing)


@dataclass(frozen=True)
class Identity:
    """Private keys of one holder; never printed."""

    signing: Ed25519PrivateKey
    opening: X25519PrivateKey

    def __repr__(self) -> str:
        return f"Identity({self.public.key_id.hex()})"

    @cached_property
    def public(self) -> PublicKeys:
        """What others may know."""
        return PublicKeys(self.signing.public_key().public_bytes_raw(), self.opening.public_key().public_bytes_raw())


@dataclass(frozen=True)
class Fleet:
    """What a device pins: the fleet's name and the operator's valid public keys, the newest first."""

    name: str
    operator: tuple[PublicKeys, ...]

    def __post_init__(self) -> None:
        require_identifier("fleet", self.name)
        require(1 <= len(self.operator) <= MOST_VALID, "operator keys", len(self.operator), f"1 to {MOST_VALID}")


def new_identity() -> Identity:
    """Fresh keys from the system's random source."""
    return Identity(Ed25519PrivateKey.generate(), X25519PrivateKey.generate())


def save_identities(path: Path, identities: Sequence[Identity]) -> None:
    """Write a key file of mode 0600, durably and in one step; an older one is replaced."""
    fresh = path.with_name(f"{path.name}.new")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, _PRIVATE)
    with os.fdopen(descriptor, "wb") as file:
        for identity in identities:
            for key in (identity.signing, identity.opening):
                file.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)
    sync_folder(path.parent)


def load_identities(path: Path) -> tuple[Identity, ...]:
    """The identities of a key file, the newest first; raises `IdentityError` that says how to mend it."""
    content = read_private(path)
    blocks = [block + _PEM_END for block in content.split(_PEM_END)[:-1]]
    try:
        keys = [load_pem_private_key(block, None) for block in blocks]
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise IdentityError(f"{path} cannot be read as private keys in PEM: {error}") from error
    identities = []
    for signing, opening in zip(keys[::2], keys[1::2], strict=False):
        if not (isinstance(signing, Ed25519PrivateKey) and isinstance(opening, X25519PrivateKey)):
            break
        identities.append(Identity(signing, opening))
    if len(identities) * 2 != len(keys) or not 1 <= len(identities) <= MOST_VALID:
        raise IdentityError(f"{path} must hold 1 or {MOST_VALID} pairs of an Ed25519 and an X25519 key in turn")
    return tuple(identities)


def read_private(path: Path) -> bytes:
    """Content of a file that only its owner can read; raises `IdentityError` for any other."""
    try:
        if os.name == "posix" and path.stat().st_mode & _OTHERS:
            raise IdentityError(f"{path} can be read by others than its owner: chmod 600 {path}")
        return path.read_bytes()
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from error


class PublicKeysText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Public keys in JSON, base64."""

    verifying: str
    sealing: str

    @classmethod
    def of(cls, keys: PublicKeys) -> PublicKeysText:
        """The text of keys."""
        return cls(b64encode(keys.verifying).decode(), b64encode(keys.sealing).decode())

    def read(self) -> PublicKeys:
        """The keys; raises `InvalidValueError`, also for a point of small order, for which nothing can be sealed."""
        try:
            keys = PublicKeys(b64decode(self.verifying, validate=True), b64decode(self.sealing, validate=True))
            _PROBE.exchange(keys.seal_key)
        except ValueError as error:
            raise InvalidValueError(f"public keys must be base64 of keys, got {self!r:.300} ({error})") from error
        return keys


class _FleetText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    fleet: str
    operator: list[PublicKeysText]


def encode_fleet(fleet: Fleet) -> bytes:
    """A fleet file's content: JSON."""
    text = _FleetText(FLEET_FORMAT, fleet.name, [PublicKeysText.of(keys) for keys in fleet.operator])
    return msgspec.json.format(msgspec.json.encode(text)) + b"\n"


def load_fleet(path: Path) -> Fleet:
    """Read a fleet file; raises `IdentityError`."""
    try:
        require(path.stat().st_size <= LARGEST_FLEET_FILE, "size", path.stat().st_size, f"at most {LARGEST_FLEET_FILE}")
        text = msgspec.json.decode(path.read_bytes(), type=_FleetText)
        require(text.format == FLEET_FORMAT, "format", text.format, str(FLEET_FORMAT))
        return Fleet(text.fleet, tuple(keys.read() for keys in text.operator))
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, InvalidValueError) as error:
        raise IdentityError(f"{path} is not a fleet file: {error}") from error
