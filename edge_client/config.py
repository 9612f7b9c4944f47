"""A device's configuration: `device.toml` read strictly into one frozen value.

    device = "pi-kitchen"                  # its name on the broker
    broker = "mqtt://192.168.1.10:1883"    # mqtts:// for TLS
    server = "http://192.168.1.10:8080"    # serves bundles and models
    data = "examples.npz"                  # arrays x and y
    # identity = "identity"  folder with the device's keys, made by the operator
    # state = "state"      folder for what is downloaded and what waits to be sent
    # outbox_mb = 64       updates that may wait for the server, in 10^6 bytes
    # run = "digits"       take part in this run only
    # runtime = "auto"     auto, portable or ort-training
    # download = "auto"    http, mqtt (through the broker), or auto: by MQTT where HTTP fails
    # threads = 1          processor threads for training, or "auto": one for each of the fastest cores
    # provider = "cpu"     what graphs run on: cpu, cuda, tensorrt, or auto: cuda where it is there
    # seed = 7             repeatable batches and random selections
    # ca_file = "ca.pem"   certificate authority of broker and server, in place of identity/ca.pem
    # [limits]             what the device may spend: see edge_client/limits.py
    # [privacy]            what it may reveal: see edge_client/privacy/cap.py
    # [updates]            what the operator may put on it: see edge_client/updates/consent.py
    # [report]             what it says of how it is: see edge_client/allowed_report.py

Paths are relative to the folder of the file. Unknown keys are refused, so that a misspelt one is not lost.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args
from urllib.parse import urlsplit

from edge_client.allowed_report import Report, read_report
from edge_client.errors import ConfigError
from edge_client.limits import Limits, read_limits
from edge_client.privacy.cap import Cap, read_cap
from edge_client.processors import Processors, Provider, choose_processors
from edge_client.updates.consent import Consent, read_consent
from edge_client.updates.launch import RELEASES
from wire_protocol.broker_url import BrokerUrl, parse_broker_url
from wire_protocol.errors import InvalidValueError, require
from wire_protocol.topics import require_identifier

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

RuntimeName = Literal["auto", "portable", "ort-training"]
DownloadMode = Literal["auto", "http", "mqtt"]

REQUIRED = ("device", "broker", "server", "data")
OPTIONAL = (
    "identity", "state", "outbox_mb", "run", "runtime", "download", "threads", "provider", "seed", "ca_file",
    "limits", "privacy", "report", "updates",
)  # fmt: skip
MAX_THREADS = 256
MAX_OUTBOX_MB = 1_000_000

_T = TypeVar("_T")


@dataclass(frozen=True)
class DeviceConfig:
    """All that a device is told; `server` has no trailing slash, `run` None means any run, `seed` None means chance,
    `limits` None means that the plan's `keep` alone says how much is trained; `releases` is where the launcher looks.
    """

    device: str
    broker: BrokerUrl
    server: str
    data: Path
    state: Path
    identity: Path
    run: str | None = None
    runtime: RuntimeName = "auto"
    threads: int | Literal["auto"] = 1
    provider: Provider = "cpu"
    seed: int | None = None
    ca_file: Path | None = None
    outbox_mb: int = 64
    limits: Limits | None = None
    download: DownloadMode = "auto"
    privacy: Cap = field(default_factory=Cap)
    updates: Consent = field(default_factory=Consent)
    releases: Path = Path(RELEASES)
    report: Report = field(default_factory=Report)

    def __post_init__(self) -> None:
        require_identifier("device", self.device)
        if self.run is not None:
            require_identifier("run", self.run)
        require(self.runtime in get_args(RuntimeName), "runtime", self.runtime, _one_of(get_args(RuntimeName)))
        fits = self.limits is None or self.runtime != "ort-training"
        require(
            fits, "runtime", self.runtime, "auto or portable with [limits], as ort-training knows a few widths only"
        )
        require(self.download in get_args(DownloadMode), "download", self.download, _one_of(get_args(DownloadMode)))
        counted = self.threads == "auto" or (isinstance(self.threads, int) and 1 <= self.threads <= MAX_THREADS)
        require(counted, "threads", self.threads, f'1 to {MAX_THREADS}, or "auto"')
        require(self.provider in get_args(Provider), "provider", self.provider, _one_of(get_args(Provider)))
        fits = self.provider == "cpu" or self.runtime != "ort-training"
        require(fits, "provider", self.provider, "cpu with ort-training, which has no other")
        require(1 <= self.outbox_mb <= MAX_OUTBOX_MB, "outbox_mb", self.outbox_mb, f"1 to {MAX_OUTBOX_MB}")
        require(self.seed is None or self.seed >= 0, "seed", self.seed, "at least 0")
        require(
            self.ca_file is None or self.ca_file.is_file(), "ca_file", str(self.ca_file), "a file with certificates"
        )

    @property
    def processors(self) -> Processors:
        """What graphs run on here."""
        return choose_processors(self.threads, self.provider)


def load_config(path: Path) -> DeviceConfig:
    """Read a device's TOML file; raises `ConfigError` that names file, field, value and what is legal."""
    table = read_toml(path)
    try:
        return check_config(table, path.parent)
    except InvalidValueError as error:
        raise ConfigError(f"{path}: {error}") from error


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file's content; raises `ConfigError`."""
    try:
        with path.open("rb") as file:
            table: dict[str, Any] = tomllib.load(file)
            return table
    except FileNotFoundError as error:
        raise ConfigError(f"{path} does not exist, expected a device's TOML file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error


def check_config(table: dict[str, Any], folder: Path) -> DeviceConfig:
    """What the keys of a `device.toml` in this folder say; raises `InvalidValueError`."""
    legal = (*REQUIRED, *OPTIONAL)
    for key in table:
        require(key in legal, "key", key, _one_of(legal))
    for key in REQUIRED:
        if key not in table:
            raise InvalidValueError(f"key {key} is missing, expected {', '.join(REQUIRED)}")
    ca_file = _optional(table, "ca_file", str)
    return DeviceConfig(
        device=_typed(table, "device", str),
        broker=parse_broker_url(_typed(table, "broker", str)),
        server=require_server_url(_typed(table, "server", str)),
        data=folder / _path(table, "data", ""),
        state=folder / _path(table, "state", "state"),
        identity=folder / _path(table, "identity", "identity"),
        run=_optional(table, "run", str),
        runtime=cast("RuntimeName", _typed({"runtime": "auto", **table}, "runtime", str)),
        threads=_threads(table.get("threads", 1)),
        provider=cast("Provider", _typed({"provider": "cpu", **table}, "provider", str)),
        seed=_optional(table, "seed", int),
        ca_file=None if ca_file is None else folder / ca_file,
        outbox_mb=_typed({"outbox_mb": 64, **table}, "outbox_mb", int),
        limits=read_limits(table["limits"]) if "limits" in table else None,
        download=cast("DownloadMode", _typed({"download": "auto", **table}, "download", str)),
        privacy=read_cap(table["privacy"]) if "privacy" in table else Cap(),
        updates=read_consent(table["updates"]) if "updates" in table else Consent(),
        releases=folder / RELEASES,
        report=read_report(table["report"]) if "report" in table else Report(),
    )


def _typed(table: dict[str, Any], key: str, kind: type[_T]) -> _T:
    value = table[key]
    right = isinstance(value, kind) and not isinstance(value, bool)
    require(right, key, value, "a string" if kind is str else "an integer")
    return cast("_T", value)


def _optional(table: dict[str, Any], key: str, kind: type[_T]) -> _T | None:
    return _typed(table, key, kind) if key in table else None


def _threads(value: object) -> int | Literal["auto"]:
    if value == "auto":
        return "auto"
    return _typed({"threads": value}, "threads", int)


def _path(table: dict[str, Any], key: str, default: str) -> str:
    value = _typed({key: default, **table}, key, str)
    require(bool(value) and "\0" not in value, key, value, "a path")
    return value


def require_server_url(url: str) -> str:
    """A server's URL without a slash at its end; raises `InvalidValueError`."""
    legal = "http://host[:port] or https://host[:port]"
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError as error:
        raise InvalidValueError(f"server must be {legal}, got {url!r} ({error})") from error
    plain = parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query and not parts.fragment
    require(plain, "server", url, legal)
    return url.rstrip("/")


def _one_of(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names)}"
