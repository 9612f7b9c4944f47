"""Which devices belong to the fleet: their public keys, and who was revoked, from `devices.json` in the fleet's folder.

The file is read again whenever it changed, so a device is enrolled or revoked while the server works. A file that
cannot be read then changes nothing: what stood goes on to stand, and the log says so once. Any thread may ask.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock

import msgspec

from wire_protocol.errors import InvalidValueError, require
from wire_protocol.identity import MOST_VALID, IdentityError, PublicKeys, PublicKeysText
from wire_protocol.topics import require_identifier

logger = logging.getLogger(__name__)

REGISTRY_NAME = "devices.json"
REGISTRY_FORMAT = 1

_Signature = tuple[int, int, int, int]


@dataclass(frozen=True)
class Enrolled:
    """A device's valid keys, the newest first, and whether it was revoked."""

    keys: tuple[PublicKeys, ...]
    revoked: bool = False

    def __post_init__(self) -> None:
        require(1 <= len(self.keys) <= MOST_VALID, "keys", len(self.keys), f"1 to {MOST_VALID}")


class _EnrolledText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    keys: list[PublicKeysText]
    revoked: bool = False


class _RegistryText(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    devices: dict[str, _EnrolledText]


def encode_registry(devices: Mapping[str, Enrolled]) -> bytes:
    """A registry file's content: JSON, the devices by name."""
    text = {
        name: _EnrolledText([PublicKeysText.of(keys) for keys in one.keys], one.revoked)
        for name, one in sorted(devices.items())
    }
    return msgspec.json.format(msgspec.json.encode(_RegistryText(REGISTRY_FORMAT, text))) + b"\n"


def decode_registry(content: bytes) -> dict[str, Enrolled]:
    """Read a registry file's content; raises `InvalidValueError`."""
    try:
        text = msgspec.json.decode(content, type=_RegistryText)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidValueError(f"not a registry of devices: {error}") from error
    require(text.format == REGISTRY_FORMAT, "format", text.format, str(REGISTRY_FORMAT))
    return {name: _read(name, one) for name, one in text.devices.items()}


def _read(name: str, one: _EnrolledText) -> Enrolled:
    require_identifier("device", name)
    try:
        return Enrolled(tuple(keys.read() for keys in one.keys), one.revoked)
    except InvalidValueError as error:
        raise InvalidValueError(f"device {name}: {error}") from error


class Registry:
    """The registry as it stands in its file; make it by `load`."""

    def __init__(self, path: Path, devices: Mapping[str, Enrolled], seen: _Signature) -> None:
        self._path = path
        self._devices = devices
        self._seen: _Signature | None = seen
        self._lock = Lock()

    @classmethod
    def load(cls, path: Path) -> Registry:
        """Read the file; raises `IdentityError` that names it."""
        try:
            seen = _signature(path)
            return cls(path, decode_registry(path.read_bytes()), seen)
        except OSError as error:
            raise IdentityError(f"{path} cannot be read: {error.strerror}") from error
        except InvalidValueError as error:
            raise IdentityError(f"{path} cannot be used: {error}") from error

    def keys(self, device: str) -> tuple[PublicKeys, ...]:
        """The device's valid keys, the newest first; none when it is unknown or revoked."""
        one = self._current().get(device)
        return () if one is None or one.revoked else one.keys

    def is_revoked(self, device: str) -> bool:
        """Whether the device was revoked; False for one that was never enrolled."""
        one = self._current().get(device)
        return one is not None and one.revoked

    def devices(self) -> Mapping[str, Enrolled]:
        """All devices ever enrolled, revoked ones too."""
        return self._current()

    def _current(self) -> Mapping[str, Enrolled]:
        with self._lock:
            seen = None
            try:
                seen = _signature(self._path)
                if seen != self._seen:
                    self._devices = decode_registry(self._path.read_bytes())
                    logger.info("%s was read again: %d devices", self._path, len(self._devices))
            except (OSError, InvalidValueError) as error:
                if seen != self._seen:
                    problem = str(error)
                    logger.error("%s cannot be used: %.300r; what stood in it goes on to stand", self._path, problem)
            self._seen = seen
            return self._devices


def _signature(path: Path) -> _Signature:
    """Differs when the file was changed or replaced."""
    status = path.stat()
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
