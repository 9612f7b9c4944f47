"""Targets for files that the owner of a device or the operator of a fleet writes or copies."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from functools import cache, partial
from random import Random

import numpy as np

from devices.emulation.datasets import load_dataset
from devices.emulation.virtual_machine import machine_of
from devices.errors import ProfileError
from devices.profiles.profile import FOLDER as PROFILES
from devices.profiles.profile import load_profile
from edge_client.config import load_config
from edge_client.errors import ConfigError
from server.database_url import parse_database_url, shown_database
from server.errors import ProvisioningError
from server.fleet.authority_folder import AuthorityFolder
from server.registry import Enrolled, Registry, encode_registry
from tests.fuzz import seeds
from tests.fuzz.files import MEGABYTE, file_of, target_of
from tests.fuzz.mutations import Mutate, of_bytes, of_json, of_text
from tests.fuzz.seeds import FLEET, KITCHEN, OPERATOR, identity, scratch
from tests.fuzz.target import Target
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.errors import InvalidValueError
from wire_protocol.examples import ExamplesError, load_examples
from wire_protocol.identity import Fleet, IdentityError, encode_fleet, load_fleet, load_identities, save_identities

DEVICE_TOML = b"""\
device = "kitchen"
broker = "mqtts://user:secret@192.168.1.10:8883"
server = "http://192.168.1.10:8080"
data = "examples.npz"
identity = "identity"
outbox_mb = 64
run = "run-1"
runtime = "portable"
threads = "auto"
provider = "cuda"
seed = 7
[limits]
seconds_per_round = 30
bytes_per_day = 1000000
memory_mb = 300
hours = "22:00-06:00"
slow_temperature = 60
max_temperature = 70
pause_on_metered = false
[report]
temperature = false
[privacy]
epsilon = 4
delta = 1e-5
public_size = true
[updates]
client = true
models = false
"""
URLS = (b"mqtt://user:p%40ss@broker.local:1883", b"mqtts://[::1]:8883/", b"mqtt://10.0.0.1")
DATABASE_URLS = (
    b"sqlite:////var/lib/a.sqlite",
    b"postgresql+psycopg://user:p%40ssword-of-9@[::1]:5432/fleet?sslmode=require",
)


def _key_files() -> Sequence[bytes]:
    contents = []
    for numbers in ((OPERATOR,), (OPERATOR, KITCHEN)):
        path = scratch() / "seed.key"
        save_identities(path, [identity(number) for number in numbers])
        contents.append(path.read_bytes())
    return contents


def _fleet_files() -> Sequence[bytes]:
    keys = tuple(identity(number).public for number in (OPERATOR, KITCHEN))
    return [encode_fleet(Fleet(FLEET, keys[:count])) for count in (1, 2)]


def _registries() -> Sequence[bytes]:
    keys = tuple(identity(number).public for number in (KITCHEN, OPERATOR))
    return [encode_registry({"kitchen": Enrolled(keys), "garden": Enrolled(keys[1:], revoked=True)})]


def _config(content: bytes) -> None:
    load_config(file_of("device.toml", content))


def _profile(content: bytes) -> None:
    """Whatever is loaded can be simulated."""
    machine_of(load_profile(file_of("profile.toml", content)), 8).calibration(seeds.LAYOUT)


def _url(content: bytes) -> None:
    url = content.decode(errors="surrogateescape")
    broker = parse_broker_url(url, {})
    if broker.password and len(broker.password) > 8 and broker.password in str(broker) + repr(broker):
        raise ValueError("a password was printed")


def _database_url(content: bytes) -> None:
    url = parse_database_url(content.decode(errors="surrogateescape"))
    if url.password and len(url.password) > 8 and url.password in shown_database(url) + repr(url):
        raise ValueError("a password was printed")


def _archive_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    """Changed bytes of an archive, or an archive of changed arrays."""
    if draw.random() < 0.4:
        return of_bytes(draw, examples, limit)
    stream = io.BytesIO()
    compression = draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))
    with zipfile.ZipFile(io.BytesIO(draw.choice(examples))) as old, zipfile.ZipFile(stream, "w", compression) as new:
        for name in old.namelist():
            content = old.read(name)
            if draw.random() < 0.6:
                content = _array_mutant(draw, content)
            new.writestr(draw.choice(("",) * 20 + ("z", "../", "é")) + name, content)
    return stream.getvalue()[:limit]


def _array_mutant(draw: Random, content: bytes) -> bytes:
    """A changed header, of the right length again, or changed bytes."""
    if draw.random() < 0.3 or not content.startswith(b"\x93NUMPY"):
        return of_bytes(draw, [content], 2 * len(content))
    (length,) = struct.unpack_from("<H", content, 8)
    words = (
        "<f8",
        "|O",
        ">i2",
        "|b1",
        "<c16",
        "|S4",
        "<U3",
        "<M8[s]",
        "0",
        "4",
        "(4,)",
        "()",
        "1000000000000",
        "-1",
        "True",
        "{",
        "'",
    )
    header = of_text((*words, "[('a','<f4')]", "(" * 200, "lambda: 1", "1e5"))(
        draw, [content[10 : 10 + length]], 10_000
    )
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + length :]


def _examples(content: bytes) -> None:
    path = file_of("examples.npz", content)
    for labelled in (True, False):
        with suppress(ExamplesError):
            load_examples(path, labelled=labelled)


def _idx_files() -> Sequence[bytes]:
    return [struct.pack(">IIII", 0x0803, 2, 28, 28) + bytes(2 * 784), struct.pack(">II", 0x0801, 2) + b"\x01\x02"]


def _idx_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    content = of_bytes(draw, examples, limit)
    return draw.choice((content, gzip.compress(content), of_bytes(draw, [gzip.compress(content)], limit)))


def _idx(content: bytes) -> None:
    images, labels = _idx_files()
    for part in ("train", "t10k"):
        for name, right in (("images-idx3", images), ("labels-idx1", labels)):
            file_of(f"idx/{part}-{name}-ubyte.gz", gzip.compress(right, 1))
    for name, right in (("images-idx3", images), ("labels-idx1", labels)):
        file_of(f"idx/train-{name}-ubyte.gz", content)
        with suppress(ExamplesError):
            load_dataset("fashion-mnist", scratch() / "idx", 0)
        file_of(f"idx/train-{name}-ubyte.gz", gzip.compress(right, 1))


def _npz_dataset(content: bytes) -> None:
    load_dataset("npz", file_of("dataset.npz", content), 0)


def _datasets() -> Sequence[bytes]:
    contents = []
    x, y = np.arange(60, dtype=np.uint8).reshape(15, 4), np.arange(15) % 3
    for more in ({}, {"device": y}, {"x_test": x[:3], "y_test": y[:3]}):
        stream = io.BytesIO()
        np.savez(stream, x=x, y=y, **more)
        contents.append(stream.getvalue())
    return contents


@cache
def _authority_files() -> dict[str, bytes]:
    from datetime import UTC, datetime  # noqa: PLC0415

    from server.fleet.certificates import Subject, Validity, new_key  # noqa: PLC0415

    folder = scratch() / "seed-authority"
    now = datetime(2026, 1, 1, tzinfo=UTC)
    authority = AuthorityFolder.ensure(folder, "Fisherfleet test", Validity.lasting(1000, now))
    authority.issue(Subject("kitchen"), new_key().public_key(), Validity.lasting(10, now))
    authority.revoke("kitchen", now)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _authority(name: str, content: bytes) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    for other, right in _authority_files().items():
        file_of(f"authority/{other}", content if other == name else right)
    AuthorityFolder.open(scratch() / "authority").revoke("kitchen", datetime(2026, 1, 2, tzinfo=UTC))


def _authority_target(name: str, mutate: Mutate, covers: tuple[str, ...]) -> Target:
    return Target(
        name=f"authority {name}",
        covers=covers,
        seeds=lambda: [_authority_files()[name]],
        mutate=mutate,
        run=partial(_authority, name),
        refusals=(ProvisioningError, IdentityError),
        limit=16 * 1024,
        cost=60,
    )


def _json_or_pem(words: Sequence[str]) -> Mutate:
    text = of_text(words)
    return lambda draw, examples, limit: draw.choice((text, of_bytes))(draw, examples, limit)


PEM_WORDS = (
    "-----BEGIN PRIVATE KEY-----\n",
    "-----END PRIVATE KEY-----\n",
    "-----",
    "BEGIN RSA ",
    "ENCRYPTED ",
    "MC4C",
    "=",
    "\n",
)
TOML_WORDS = (
    "[",
    "]",
    "[[a]]",
    "{",
    "=",
    '"',
    "'''",
    "\\u0000",
    "\\ud800",
    "#",
    "\n",
    "threads = ",
    "1979-05-27",
    "inf",
    "0x",
)
URL_WORDS = (
    "mqtt",
    "mqtts://",
    ":",
    "@",
    "[",
    "]",
    "::",
    "%",
    "%zz",
    "%00",
    "/",
    "?",
    "#",
    "65536",
    "-1",
    "٣",
    " ",
    "\t",
)

OWNER_TARGETS = (
    target_of(
        "broker URL",
        ["wire_protocol.broker_url.parse_broker_url"],
        lambda: URLS,
        of_text(URL_WORDS),
        _url,
        InvalidValueError,
        cost=1,
    ),
    target_of(
        "database URL",
        ["server.database_url.parse_database_url"],
        lambda: DATABASE_URLS,
        of_text((*URL_WORDS, "sqlite:", "postgresql", "+psycopg", ":memory:")),
        _database_url,
        InvalidValueError,
        cost=1,
    ),
    target_of(
        "device.toml",
        [
            "edge_client.config.load_config",
            "edge_client.config.read_toml",
            "edge_client.limits.read_limits",
            "edge_client.owner_table.read_table",
            "edge_client.privacy.cap.read_cap",
            "edge_client.updates.consent.read_consent",
            "edge_client.allowed_report.read_report",
        ],
        lambda: [DEVICE_TOML],
        of_text((*TOML_WORDS, *URL_WORDS, "\nx = " + "[" * 2000, "9" * 5000)),
        _config,
        ConfigError,
        times=256,
    ),
    target_of(
        "profile.toml",
        ["devices.profiles.profile.load_profile"],
        lambda: [path.read_bytes() for path in sorted(PROFILES.glob("*.toml"))],
        of_text((*TOML_WORDS, "\nx = " + "[" * 2000, "9" * 5000)),
        _profile,
        ProfileError,
        times=256,
    ),
    target_of(
        "key file",
        ["wire_protocol.identity.load_identities", "wire_protocol.identity.read_private"],
        _key_files,
        _json_or_pem(PEM_WORDS),
        lambda content: load_identities(file_of("some.key", content)),
        IdentityError,
        cost=20,
    ),
    target_of(
        "fleet file",
        ["wire_protocol.identity.load_fleet", "wire_protocol.identity.PublicKeysText.read"],
        _fleet_files,
        of_json,
        lambda content: load_fleet(file_of("fleet.json", content)),
        IdentityError,
    ),
    target_of(
        "registry",
        ["server.registry.decode_registry", "server.registry.Registry.load"],
        _registries,
        of_json,
        lambda content: Registry.load(file_of("registry.json", content)).keys("kitchen"),
        IdentityError,
        times=16,
    ),
    target_of(
        "examples",
        ["wire_protocol.examples.load_examples", "wire_protocol.examples.read_npz"],
        seeds.archives,
        _archive_mutant,
        _examples,
        None,
        limit=MEGABYTE,
        cost=40,
    ),
    target_of(
        "dataset of images",
        ["devices.emulation.datasets.load_dataset"],
        _idx_files,
        _idx_mutant,
        _idx,
        None,
        limit=MEGABYTE,
        cost=60,
    ),
    target_of(
        "dataset of arrays",
        ["devices.emulation.datasets.load_dataset"],
        _datasets,
        _archive_mutant,
        _npz_dataset,
        ExamplesError,
        limit=MEGABYTE,
        cost=60,
    ),
    _authority_target(
        "ca.key",
        _json_or_pem(PEM_WORDS),
        ("server.fleet.authority_folder.load_key", "server.fleet.certificates.decode_key"),
    ),
    _authority_target(
        "ca.pem",
        _json_or_pem(PEM_WORDS),
        (
            "server.fleet.authority_folder.load_certificate",
            "server.fleet.authority_folder.AuthorityFolder.open",
        ),
    ),
    _authority_target("records.json", of_json, ("server.fleet.authority_folder.AuthorityFolder.open",)),
)
