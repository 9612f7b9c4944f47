"""`board.toml` in a device's own folder: what its board is told besides, kept until it is flashed. It never goes along.

hostname = "kitchen"            # all optional; options of `fisherfleet devices flash` go before it
timezone = "Europe/Berlin"
[wifi]
ssid = "shed"
password = "correct horse"      # none for an open network
country = "DE"
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devices.errors import FlashError
from devices.flashing.device_folder import PRIVATE_FILE
from devices.flashing.installation import Wifi, require_hostname, require_timezone
from server.fleet.durable_files import write_file
from wire_protocol.errors import InvalidValueError, require
from wire_protocol.toml_text import toml_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

BOARD = "board.toml"
_KEYS, _WIFI_KEYS = ("hostname", "timezone", "wifi"), ("ssid", "password", "country")


@dataclass(frozen=True)
class Board:
    """What a board is told; None leaves it to the command that flashes it. Raises `InvalidValueError`."""

    hostname: str | None = None
    wifi: Wifi | None = None
    timezone: str | None = None

    def __post_init__(self) -> None:
        if self.hostname is not None:
            require_hostname(self.hostname)
        if self.timezone is not None:
            require_timezone(self.timezone)


def write_board(folder: Path, board: Board) -> None:
    """Replace the file, for its owner's eyes alone; a board that is told nothing leaves one that is there."""
    if board == Board():
        return
    table: dict[str, Any] = {"hostname": board.hostname, "timezone": board.timezone}
    if board.wifi is not None:
        wifi = {"ssid": board.wifi.ssid, "password": board.wifi.password, "country": board.wifi.country}
        table["wifi"] = {key: value for key, value in wifi.items() if value is not None}
    text = toml_text({key: value for key, value in table.items() if value is not None})
    write_file(folder / BOARD, text.encode(), mode=PRIVATE_FILE)


def read_board(folder: Path) -> Board:
    """What the file says, nothing where there is none; raises `FlashError` that names file, key and what is legal."""
    path = folder / BOARD
    if not path.exists():
        return Board()
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        raise FlashError(f"{path} cannot be read as TOML: {error}") from error
    try:
        return _board(table)
    except InvalidValueError as error:
        raise FlashError(f"{path}: {error}") from error


def _board(table: Mapping[str, Any]) -> Board:
    _require_texts(table, _KEYS, ("wifi",))
    wifi = table.get("wifi")
    if wifi is None:
        return Board(table.get("hostname"), None, table.get("timezone"))
    require(isinstance(wifi, Mapping), "wifi", type(wifi).__name__, "a table [wifi]")
    _require_texts(wifi, _WIFI_KEYS, ())
    for key in ("ssid", "country"):
        require(key in wifi, f"wifi.{key}", None, "given")
    return Board(
        table.get("hostname"), Wifi(wifi["ssid"], wifi.get("password"), wifi["country"]), table.get("timezone")
    )


def _require_texts(table: Mapping[str, Any], legal: tuple[str, ...], others: tuple[str, ...]) -> None:
    for key, value in table.items():
        require(key in legal, "key", key, f"one of {', '.join(legal)}")
        require(key in others or isinstance(value, str), key, type(value).__name__, "a string")
