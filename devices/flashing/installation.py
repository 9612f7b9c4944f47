"""What a board is to be made into: one description for all ways of flashing."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import pbkdf2_hmac
from pathlib import Path
from zoneinfo import available_timezones

from devices.flashing.device_folder import DeviceFile, device_files
from devices.flashing.systems import System
from wire_protocol.errors import InvalidValueError, require

_HOSTNAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_COUNTRY = re.compile(r"[A-Z]{2}")
_PASSPHRASE = re.compile(r"[ -~]{8,63}|[0-9a-fA-F]{64}")
_SSH_KEY = re.compile(r"(ssh-[a-z0-9-]+|ecdsa-[a-z0-9-]+|sk-[a-z0-9@.-]+) [A-Za-z0-9+/]+={0,2}( [^\n\r]*)?")
_MOST_SSID_BYTES = 32
_KEY_DIGITS = 64


def require_hostname(name: str) -> None:
    """Raise `InvalidValueError` where no board can have this name."""
    legal = "1 to 63 lower-case letters, digits and hyphens, with no hyphen at either end"
    require(_HOSTNAME.fullmatch(name) is not None, "hostname", name, legal)


def require_timezone(name: str) -> None:
    """Raise `InvalidValueError` where there is no such zone."""
    require(name in available_timezones(), "timezone", name, "a name of the IANA database, as in Europe/Berlin")


def require_country(code: str) -> None:
    """Raise `InvalidValueError` where it is no country's code as ISO 3166 writes them."""
    require(_COUNTRY.fullmatch(code) is not None, "country", code, "two capital letters, as in DE")


def _require_passphrase(password: str) -> None:
    """As `require`, but never with the value."""
    if _PASSPHRASE.fullmatch(password) is None:
        legal = "8 to 63 printable ASCII characters or 64 hexadecimal digits"
        others = "" if password.isascii() and password.isprintable() else ", not all of them printable ASCII"
        raise InvalidValueError(
            f"wifi password must be {legal}, got {len(password)} characters{others}", "wifi password"
        )


@dataclass(frozen=True)
class Wifi:
    """A wireless network (IEEE 802.11, WPA2 or WPA3 with a passphrase, or none) and whose rules of the air hold.

    `ssid` has 1 to 32 bytes, `password` 8 to 63 printable ASCII characters or 64 hexadecimal digits, None for an open
    network; `country` is two capital letters (ISO 3166). The password is never shown.
    """

    ssid: str
    password: str | None = field(repr=False)
    country: str

    def __post_init__(self) -> None:
        fits = 1 <= len(self.ssid.encode()) <= _MOST_SSID_BYTES and self.ssid.isprintable()
        require(fits, "wifi ssid", self.ssid, f"1 to {_MOST_SSID_BYTES} bytes of printable characters")
        if self.password is not None:
            _require_passphrase(self.password)
        require_country(self.country)

    @property
    def pre_shared_key(self) -> str:
        """64 hexadecimal digits that open this network and no other (IEEE 802.11, J.4); `password` is not None."""
        assert self.password is not None
        if len(self.password) == _KEY_DIGITS:
            return self.password
        return pbkdf2_hmac("sha1", self.password.encode(), self.ssid.encode(), 4096, _KEY_DIGITS // 2).hex()


@dataclass(frozen=True)
class Installation:
    """A device for one board: its folder (see `device_folder.py`), the board's system, and what the board is told.

    `hostname` is a label of RFC 1123 in lower case; `ssh_keys` are lines of an `authorized_keys` file without options;
    `timezone` is a name of the IANA database. Raises `InvalidValueError`.
    """

    device_folder: Path
    system: System
    hostname: str
    wifi: Wifi | None = None
    ssh_keys: tuple[str, ...] = ()
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        require_hostname(self.hostname)
        for key in self.ssh_keys:
            require(
                _SSH_KEY.fullmatch(key) is not None, "ssh key", key, "a line of a .pub file, as ssh-keygen writes it"
            )
        require_timezone(self.timezone)

    @property
    def files(self) -> tuple[DeviceFile, ...]:
        """What goes to `/var/lib/fisherfleet-edge`; raises `FlashError`."""
        return device_files(self.device_folder)
