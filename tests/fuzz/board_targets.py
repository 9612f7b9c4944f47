"""Files about devices that are yet to be: lists, what a board is told, and what a device enrols with."""

from __future__ import annotations

from devices.errors import FlashError
from devices.flashing.board_file import read_board
from devices.profiles.profile import load_profiles
from devices.provisioning.device_list import read_csv
from edge_client.enrolment_file import read_enrolment
from edge_client.errors import ConfigError
from server.errors import ProvisioningError
from tests.fuzz.files import file_of, target_of
from tests.fuzz.mutations import of_text
from tests.fuzz.owner_targets import TOML_WORDS, URL_WORDS

ENROL_TOML = b"""\
server = "https://fleet.example.org:8443"
device = "kitchen"
token = "ffe_secret.fingerprint"
threads = 3
[limits]
memory_mb = 200
"""
BOARD_TOML = b"""\
hostname = "kitchen"
timezone = "Europe/Berlin"
[wifi]
ssid = "shed"
password = "correct horse"
country = "DE"
"""
DEVICES_CSV = b"""\
name,profile,data,hostname,timezone,wifi_ssid,wifi_password,country
kitchen,raspberry-pi-4,,pi-kitchen,Europe/Berlin,shed,correct horse,DE
"garden",,,,,"open, for all",,FR
"""
CSV_WORDS = (",", '"', "\r\n", "\n\n", "\ufeff", "name", "profile", "data", "/", "..", "\0", "x" * 200_000)


def _board(content: bytes) -> None:
    read_board(file_of("board/board.toml", content).parent)


def _csv(content: bytes) -> None:
    read_csv(file_of("devices.csv", content), load_profiles()["generic-arm64"])


BOARD_TARGETS = (
    target_of(
        "enrol.toml",
        ["edge_client.enrolment_file.read_enrolment"],
        lambda: [ENROL_TOML],
        of_text((*TOML_WORDS, *URL_WORDS, "ffe_", "ca_file", "broker")),
        lambda content: read_enrolment(file_of("enrol.toml", content)),
        ConfigError,
        times=256,
    ),
    target_of(
        "board.toml",
        ["devices.flashing.board_file.read_board"],
        lambda: [BOARD_TOML],
        of_text((*TOML_WORDS, "\nx = " + "[" * 2000, "[wifi]", "ssid")),
        _board,
        FlashError,
        times=256,
    ),
    target_of(
        "list of devices",
        ["devices.provisioning.device_list.read_csv"],
        lambda: [DEVICES_CSV],
        of_text(CSV_WORDS),
        _csv,
        ProvisioningError,
        times=256,
    ),
)
