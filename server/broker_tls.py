"""How the server speaks TLS with the broker: what it trusts and the certificate that it shows, from the fleet's folder.

`server/ca.pem` is the fleet's own authority, `server/tls.pem` and `server/tls.key` name the server to the broker.
Without them the system's authorities are trusted and nothing is shown.
"""

from __future__ import annotations

import ssl
from pathlib import Path

from server.errors import LinkError
from wire_protocol.identity import read_private

FOLDER = "server"
CA_FILE, CERTIFICATE, KEY = "ca.pem", "tls.pem", "tls.key"


def broker_tls(fleet: Path, ca_file: Path | None) -> ssl.SSLContext:
    """Trust `ca_file`, else the fleet's authority; raises `LinkError`, or `IdentityError` where others read the key."""
    place = fleet / FOLDER
    own = place / CA_FILE
    trusted = ca_file or (own if own.is_file() else None)
    try:
        context = ssl.create_default_context(cafile=trusted)
    except OSError as error:
        raise LinkError(f"ca_file {trusted} cannot be used, expected certificates in PEM format ({error})") from error
    if (place / CERTIFICATE).is_file():
        read_private(place / KEY)
        try:
            context.load_cert_chain(place / CERTIFICATE, place / KEY)
        except (OSError, ValueError) as error:
            raise LinkError(f"{place / CERTIFICATE} and {KEY} cannot be used together: {error}") from error
    return context
