"""`enrol.toml`: what a device enrols with at its first start. It lies where `device.toml` will be.

    server = "https://fleet.example.org:8443"
    device = "kitchen"          # the name that it is to have
    token = "ffe_..."           # as `fisherfleet devices enrol-token` printed it
    # ca_file = "ca.pem"        certificates that may have signed the server's
    # threads = 3               and whatever else its device.toml may say, but for broker and identity

The token is good for one device, and the file is gone once it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_client.config import OPTIONAL, check_config, read_toml
from edge_client.durable_files import plainly
from edge_client.enrolment import CONFIG_FILE, Enrolment, enrol
from edge_client.errors import ConfigError, EnrolmentError
from wire_protocol.enrolment import split_token
from wire_protocol.errors import InvalidValueError, require

REQUIRED = ("server", "device", "token")
SETTINGS = ("data", *(key for key in OPTIONAL if key not in ("identity", "ca_file")))
_UNKNOWN_BROKER = "mqtts://unknown"


def enrol_at_first_start(path: Path) -> str | None:
    """Enrol with this file and take it away; what to say, None where the device is enrolled already.

    Raises `FisherfleetError`; the file then stays, so that the next start tries again.
    """
    if (path.parent / CONFIG_FILE).exists():
        path.unlink()
        return None
    enrolment, token = read_enrolment(path)
    try:
        words = enrol(enrolment, token)
        path.unlink()
    except OSError as error:
        raise EnrolmentError(f"{path.parent} cannot be written: {plainly(error)}") from error
    return words


def read_enrolment(path: Path) -> tuple[Enrolment, str]:
    """Who enrols where, and the token; raises `ConfigError` that names file, key and what is legal."""
    table = read_toml(path)
    try:
        return _enrolment(table, path.parent)
    except InvalidValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def _enrolment(table: dict[str, Any], folder: Path) -> tuple[Enrolment, str]:
    legal = (*REQUIRED, "ca_file", *SETTINGS)
    for key in table:
        require(key in legal, "key", key, f"one of {', '.join(legal)}")
    for key in REQUIRED:
        require(isinstance(table.get(key), str), key, type(table.get(key)).__name__, "a string")
    split_token(table["token"])
    settings = {key: table[key] for key in SETTINGS if key in table}
    known = {key: table[key] for key in ("server", "device")} | {"broker": _UNKNOWN_BROKER, "data": "data.npz"}
    config = check_config(known | settings, folder)
    ca_file = table.get("ca_file")
    require(ca_file is None or isinstance(ca_file, str), "ca_file", ca_file, "a path")
    trusted = None if ca_file is None else folder / ca_file
    require(trusted is None or trusted.is_file(), "ca_file", str(trusted), "a file with certificates")
    return Enrolment(config.server, config.device, folder, trusted, settings), table["token"]
