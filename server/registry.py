"""Which devices belong to the fleet: their public keys, and who was revoked, from `devices.json` in the fleet's folder.

The file is read again whenever it changed, so a device is added or revoked while the server runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from wire_protocol.errors import InvalidValueError, require
from wire_protocol.identity import MOST_VALID, IdentityError, PublicKeys, PublicKeysText
from wire_protocol.topics import require_identifier

REGISTRY_NAME = "devices.json"
REGISTRY_FORMAT = 1


@dataclass(frozen=True)
class Enrolled:
    """A device's valid keys, the newest first."""

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
    """A registry file's content: JSON."""
    text = {
        name: _EnrolledText([PublicKeysText.of(keys) for keys in one.keys], one.revoked)
        for name, one in devices.items()
    }
    return msgspec.json.format(msgspec.json.encode(_RegistryText(REGISTRY_FORMAT, text))) + b"\n"


def decode_registry(content: bytes) -> dict[str, Enrolled]:
    """Read a registry file's content; raises `InvalidValueError`."""
    try:
        text = msgspec.json.decode(content, type=_RegistryText)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidValueError(f"not a registry of devices: {error}") from error
    require(text.format == REGISTRY_FORMAT, "format", text.format, str(REGISTRY_FORMAT))
    return {
        require_identifier("device", name): Enrolled(tuple(keys.read() for keys in one.keys), one.revoked)
        for name, one in text.devices.items()
    }


class Registry:
    """The registry as it stands in its file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, int] | None = None
        self._devices: dict[str, Enrolled] = {}

    @classmethod
    def load(cls, path: Path) -> Registry:
        """Read the file; raises `IdentityError`."""
        registry = cls(path)
        registry._refresh()
        return registry

    def keys(self, device: str) -> tuple[PublicKeys, ...]:
        """The device's valid keys, the newest first; none when it is unknown or revoked."""
        self._refresh()
        one = self._devices.get(device)
        return () if one is None or one.revoked else one.keys

    def is_revoked(self, device: str) -> bool:
        """Whether the device was revoked."""
        self._refresh()
        one = self._devices.get(device)
        return one is not None and one.revoked

    def _refresh(self) -> None:
        try:
            status = self._path.stat()
            seen = (status.st_mtime_ns, status.st_ino)
            if seen != self._seen:
                self._devices = decode_registry(self._path.read_bytes())
                self._seen = seen
        except (OSError, InvalidValueError) as error:
            if self._seen is None:
                raise IdentityError(f"{self._path} cannot be used: {error}") from error
