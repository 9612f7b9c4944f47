"""Which devices to provision: names, a count, or a CSV file with a line for each (RFC 4180, UTF-8, names in its head)::

    name,profile,data,hostname,timezone,wifi_ssid,wifi_password,country
    kitchen,raspberry-pi-4,shares/kitchen.npz,kitchen,Europe/Berlin,shed,correct horse,DE

Only `name` must be there; an empty cell is as none. Paths are relative to the file's folder. All of it is read and
checked before anything is made of it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from devices.flashing.board_file import Board
from devices.flashing.installation import Wifi, require_country
from devices.profiles.profile import Profile, load_profiles
from server.errors import ProvisioningError
from server.fleet.fleet_folder import require_device_name
from wire_protocol.errors import FisherfleetError, InvalidValueError, require
from wire_protocol.examples import read_npz

if TYPE_CHECKING:
    from _csv import Reader as _Reader

COLUMNS = ("name", "profile", "data", "hostname", "timezone", "wifi_ssid", "wifi_password", "country")
MOST_DEVICES = 100_000
_LEAST_DIGITS = 3


@dataclass(frozen=True)
class WantedDevice:
    """A device to be made: its kind, its examples (`.npz`, None: they come later) and what its board is told."""

    name: str
    profile: Profile
    data: Path | None = None
    board: Board = field(default_factory=Board)

    def __post_init__(self) -> None:
        require_device_name(self.name)
        if self.data is not None:
            read_npz(self.data)


def numbered(prefix: str, count: int) -> list[str]:
    """Names PREFIX001 to PREFIXn, all of one length."""
    require(1 <= count <= MOST_DEVICES, "count", count, f"1 to {MOST_DEVICES}")
    digits = max(_LEAST_DIGITS, len(str(count)))
    return [f"{prefix}{number:0{digits}d}" for number in range(1, count + 1)]


def named(names: Sequence[str], profile: Profile, data: Path | None) -> list[WantedDevice]:
    """Devices of one kind; `data` is the file of the only one, or a folder with NAME.npz for each."""
    if data is not None and not data.is_dir():
        require(len(names) == 1, "data", str(data), "a folder with NAME.npz for each device")
    return [WantedDevice(name, profile, _of(data, name)) for name in dict.fromkeys(names)]


def read_csv(path: Path, profile: Profile | None) -> list[WantedDevice]:
    """The devices of a file; `profile` is of those whose line names none. Raises `ProvisioningError` with the line."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            rows = [(reader.line_num, row) for row in _rows(path, reader)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ProvisioningError(f"{path} cannot be read as CSV: {error}") from error
    wanted: dict[str, WantedDevice] = {}
    for line, row in rows:
        try:
            device = _wanted(row, path.parent, profile)
            require(device.name not in wanted, "name", device.name, "of one line only")
        except FisherfleetError as error:
            raise ProvisioningError(f"{path} line {line}: {error}") from error
        wanted[device.name] = device
    if not wanted:
        raise ProvisioningError(f"{path} names no device")
    return list(wanted.values())


def profile_named(name: str) -> Profile:
    """A profile that comes with the package; raises `InvalidValueError` that lists them."""
    known = load_profiles()
    require(name in known, "profile", name, f"one of {', '.join(known)}")
    return known[name]


def _of(data: Path | None, name: str) -> Path | None:
    return data / f"{name}.npz" if data is not None and data.is_dir() else data


def _rows(path: Path, reader: _Reader) -> Iterator[Mapping[str, str]]:
    head = [cell.strip() for cell in next(reader, [])]
    for column in head:
        if column not in COLUMNS or head.count(column) > 1:
            raise ProvisioningError(f"{path} line 1: column must be one of {', '.join(COLUMNS)}, once, got {column!r}")
    if "name" not in head:
        raise ProvisioningError(f"{path} line 1: the column name is missing, expected {', '.join(COLUMNS)}")
    for cells in reader:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(head):
            words = f"it must have {len(head)} cells as line 1, got {len(cells)}"
            raise ProvisioningError(f"{path} line {reader.line_num}: {words}")
        yield {column: cell for column, cell in zip(head, cells, strict=True) if cell.strip()}


def _wanted(row: Mapping[str, str], folder: Path, profile: Profile | None) -> WantedDevice:
    if "profile" not in row and profile is None:
        raise InvalidValueError("profile must be given here or by --profile")
    of_line = profile_named(row["profile"]) if "profile" in row else profile
    assert of_line is not None
    data = folder / row["data"] if "data" in row else None
    board = Board(row.get("hostname"), _wifi(row), row.get("timezone"))
    return WantedDevice(row.get("name", ""), of_line, data, board)


def _wifi(row: Mapping[str, str]) -> Wifi | None:
    if "country" in row:
        require_country(row["country"])
    if "wifi_ssid" not in row:
        require("wifi_password" not in row, "wifi_ssid", None, "given with wifi_password")
        return None
    require("country" in row, "country", None, "given with wifi_ssid, as in DE")
    return Wifi(row["wifi_ssid"], row.get("wifi_password"), row["country"])
