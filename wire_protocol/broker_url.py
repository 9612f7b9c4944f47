"""A broker's address as one URL: `mqtt://[user[:password]@]host[:port]`, or `mqtts://` for TLS.

User and password are percent-encoded. The password may also come, as it is, from the environment variable
FISHERFLEET_MQTT_PASSWORD, so that it need not stand in a file. No error and no `repr` shows it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import SplitResult, unquote, urlsplit

from wire_protocol.errors import InvalidValueError, require

PASSWORD_VARIABLE = "FISHERFLEET_MQTT_PASSWORD"
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}
_LEGAL = "mqtt://[user[:password]@]host[:port] or mqtts://..."
_CREDENTIALS = re.compile(r"//.*@", re.DOTALL)
_BLANK = re.compile(r"\s")


@dataclass(frozen=True)
class BrokerUrl:
    """Host, port, credentials and whether TLS is used; the password is masked when printed."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"


def parse_broker_url(url: str, environment: Mapping[str, str] = os.environ) -> BrokerUrl:
    """Read a broker's URL; raises `InvalidValueError` that names what is wrong."""
    shown = _CREDENTIALS.sub("//***@", url)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise InvalidValueError(f"broker must be {_LEGAL}, got {shown!r}") from None
    require(parts.scheme in _DEFAULT_PORTS and bool(parts.hostname), "broker", shown, _LEGAL)
    require(not (parts.path.strip("/") or parts.query or parts.fragment), "broker", shown, f"{_LEGAL}, without a path")
    require(not _BLANK.search(url), "broker", shown, f"{_LEGAL}, without blanks")
    require(port != 0, "broker port", port, "1 to 65535")
    require(bool(parts.username) or not parts.password, "broker", shown, f"{_LEGAL}: a password needs a user")
    return BrokerUrl(
        host=str(parts.hostname),
        port=port or _DEFAULT_PORTS[parts.scheme],
        tls=parts.scheme == "mqtts",
        username=unquote(parts.username) if parts.username else None,
        password=_password(parts, environment) if parts.username else None,
    )


def _password(parts: SplitResult, environment: Mapping[str, str]) -> str | None:
    if parts.password is not None:
        return unquote(parts.password)
    return environment.get(PASSWORD_VARIABLE)
