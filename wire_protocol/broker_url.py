"""A broker's address as one URL: `mqtt://[user[:password]@]host[:port]`, or `mqtts://` for TLS.

The password may also come from the environment variable FISHERFLEET_MQTT_PASSWORD, so that it need not stand in a file.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from wire_protocol.errors import InvalidValueError, require

PASSWORD_VARIABLE = "FISHERFLEET_MQTT_PASSWORD"
_DEFAULT_PORTS = {"mqtt": 1883, "mqtts": 8883}


@dataclass(frozen=True)
class BrokerUrl:
    """Host, port, credentials and whether TLS is used; the password is masked when printed."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)

    def __str__(self) -> str:
        return f"{'mqtts' if self.tls else 'mqtt'}://{self.host}:{self.port}"


def parse_broker_url(url: str, environment: Mapping[str, str] = os.environ) -> BrokerUrl:
    """Read a broker's URL; raises `InvalidValueError` that names what is wrong."""
    legal = "mqtt://[user[:password]@]host[:port] or mqtts://..."
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise InvalidValueError(f"broker must be {legal}, got {url!r} ({error})") from error
    require(parts.scheme in _DEFAULT_PORTS and bool(parts.hostname), "broker", url, legal)
    password = parts.password if parts.password is not None else environment.get(PASSWORD_VARIABLE)
    return BrokerUrl(
        host=str(parts.hostname),
        port=port or _DEFAULT_PORTS[parts.scheme],
        tls=parts.scheme == "mqtts",
        username=unquote(parts.username) if parts.username else None,
        password=unquote(password) if password and parts.username else None,
    )
