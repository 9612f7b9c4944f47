"""Targets for local files: what a user, a disk or another version of ours may have left there."""

from __future__ import annotations

import gzip
import io
import struct
import zipfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec
import numpy as np

from devices.emulation.datasets import load_dataset
from devices.emulation.report import ReportError, decode_report
from devices.errors import ProvisioningError
from devices.provisioning.authority_folder import AuthorityFolder
from edge_client.config import load_config
from edge_client.device_memory import load_memory, save_memory
from edge_client.errors import ConfigError, DamagedFileError
from edge_client.outbox import Outbox
from edge_client.round_events import Selection
from edge_client.round_phases import Memory
from server.bundle import open_bundle, read_weights
from server.errors import BundleError, StorageError
from server.partial_files import PartialFiles
from server.registry import Enrolled, Registry, encode_registry
from tests.fuzz import seeds
from tests.fuzz.mutations import Mutate, of_bytes, of_json, of_messagepack, of_text
from tests.fuzz.seeds import DEVICE, FLEET, KEPT, KITCHEN, LAYOUT, OPERATOR, ROUND, RUN, identity, scratch
from tests.fuzz.target import MOST_MEMORY, Target
from wire_protocol.bundle_manifest import TRAIN_STEP, WEIGHTS
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.chunking import chunk, manifest_of
from wire_protocol.errors import FisherfleetError, InvalidValueError, ProtocolError
from wire_protocol.examples import ExamplesError, load_examples
from wire_protocol.identity import Fleet, IdentityError, encode_fleet, load_fleet, load_identities, save_identities
from wire_protocol.topics import Part

MEGABYTE = 2**20
DEVICE_TOML = b"""\
device = "kitchen"
broker = "mqtts://user:secret@192.168.1.10:8883"
server = "http://192.168.1.10:8080"
data = "examples.npz"
identity = "identity"
outbox_mb = 64
run = "run-1"
runtime = "portable"
threads = 1
seed = 7
"""
URLS = (b"mqtt://user:p%40ss@broker.local:1883", b"mqtts://[::1]:8883/", b"mqtt://10.0.0.1")


def _file(name: str, content: bytes, mode: int = 0o600) -> Path:
    path = scratch() / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    return path


def _empty(name: str) -> Path:
    folder = scratch() / name
    folder.mkdir(exist_ok=True)
    for path in folder.iterdir():
        path.unlink()
    return folder


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


def _memories() -> Sequence[bytes]:
    path, selection = scratch() / "seed.memory", Selection(RUN, "0" * 64, 1, 3, KEPT)
    save_memory(path, FLEET, Memory(selection, {RUN: 3, "other": 9}))
    return [path.read_bytes()[32:]]


def _use_memory(content: bytes) -> None:
    """Whatever is remembered can be used and written again."""
    path = _file("memory", sha256(content).digest() + content)
    memory = load_memory(path, FLEET).with_round(RUN, ROUND)
    save_memory(path, FLEET, memory)
    again = load_memory(path, FLEET)
    if again != memory:
        raise ValueError(f"memory changed on disk: {memory} {again}")


def _parcels() -> Sequence[bytes]:
    """Outbox files without their digest."""
    outbox = Outbox(_empty("seed-outbox"), FLEET, MEGABYTE)
    outbox.add(RUN, ROUND, b"sealed" * 100, Selection(RUN, "0" * 64, 1, 3, KEPT))
    outbox.add(RUN, ROUND + 1, b"decline", None)
    return [path.read_bytes()[32:] for path in sorted((scratch() / "seed-outbox").iterdir())]


def _parcel_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    """Changed bytes, or a changed header before the payload."""
    content = draw.choice(examples)
    if draw.random() < 0.3:
        return of_bytes(draw, examples, limit)
    (length,) = struct.unpack_from(">I", content)
    header = of_messagepack(draw, [content[4 : 4 + length]], limit)
    return struct.pack(">I", draw.choice((len(header),) * 20 + (0, 2**31))) + header + content[4 + length :]


def _use_outbox(content: bytes) -> None:
    """A parcel is whole or gone, and the outbox goes on to work."""
    folder = _empty("outbox")
    _file(f"outbox/{RUN}.{ROUND}.sealed", sha256(content).digest() + content)
    outbox = Outbox(folder, FLEET, MEGABYTE)
    outbox.load()
    for parcel in outbox.parcels:
        with suppress(DamagedFileError):
            outbox.payload(parcel)
    outbox.add(RUN, ROUND, b"fresh", None)
    outbox.add(RUN, ROUND + 1, b"fresh", None)
    outbox.payload(outbox.of_round(RUN, ROUND + 1))


PAYLOAD = bytes(range(256)) * 10
PAYLOAD_MANIFEST = manifest_of(PAYLOAD, 100)


def _journals() -> Sequence[bytes]:
    files = PartialFiles(_empty("seed-partial"), RUN)
    payload = files.open(Part(DEVICE, RUN, ROUND, None), PAYLOAD_MANIFEST)
    for index in range(0, PAYLOAD_MANIFEST.chunk_count, 2):
        payload.add(index, chunk(PAYLOAD, PAYLOAD_MANIFEST, index))
    return [path.read_bytes() for path in (scratch() / "seed-partial").glob("*.journal")]


def _use_journal(content: bytes) -> None:
    """Whatever the journal says, the payload becomes whole in two turns at most: a wrong journal costs the first."""
    folder = _empty("partial")
    stem = f"{RUN}.{ROUND}.{DEVICE}.{PAYLOAD_MANIFEST.sha256.hex()}"
    _file(f"partial/{stem}.journal", content)
    _file(f"partial/{stem}.data", PAYLOAD[:1000] + bytes(100))
    files = PartialFiles(folder, RUN, max_bytes=MEGABYTE)
    payload = files.open(Part(DEVICE, RUN, ROUND, None), PAYLOAD_MANIFEST)
    for _ in range(2):
        for index in payload.arrived.missing():
            payload.add(index, chunk(PAYLOAD, PAYLOAD_MANIFEST, index))
        with suppress(ProtocolError):
            if payload.payload() == PAYLOAD:
                return
    raise ValueError("the payload never became whole")


def _names_of_partials(content: bytes) -> None:
    """Files that were not made here."""
    folder = _empty("partial-names")
    name = content.decode(errors="replace").replace("/", "-").replace("\0", "-")[:80] or "x"
    for ending in (".journal", ".data", ""):
        _file(f"partial-names/{name}{ending}", b"FJ1\n" + struct.pack("<QQ", 10, 10))
    files = PartialFiles(folder, RUN)
    files.keep_only(ROUND)


def _config(content: bytes) -> None:
    load_config(_file("device.toml", content))


def _url(content: bytes) -> None:
    url = content.decode(errors="surrogateescape")
    broker = parse_broker_url(url, {})
    if broker.password and len(broker.password) > 8 and broker.password in str(broker) + repr(broker):
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
    words = ("<f8", "|O", ">i2", "|b1", "<c16", "|S4", "<U3", "<M8[s]", "0", "4", "(4,)", "()", "1000000000000", "-1", "True", "{", "'")
    header = of_text((*words, "[('a','<f4')]", "(" * 200, "lambda: 1", "1e5"))(draw, [content[10 : 10 + length]], 10_000)
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + length :]


def _examples(content: bytes) -> None:
    path = _file("examples.npz", content)
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
            _file(f"idx/{part}-{name}-ubyte.gz", gzip.compress(right, 1))
    for name, right in (("images-idx3", images), ("labels-idx1", labels)):
        _file(f"idx/train-{name}-ubyte.gz", content)
        with suppress(ExamplesError):
            load_dataset("fashion-mnist", scratch() / "idx", 0)
        _file(f"idx/train-{name}-ubyte.gz", gzip.compress(right, 1))


def _npz_dataset(content: bytes) -> None:
    load_dataset("npz", _file("dataset.npz", content), 0)


def _datasets() -> Sequence[bytes]:
    contents = []
    x, y = np.arange(60, dtype=np.uint8).reshape(15, 4), np.arange(15) % 3
    for more in ({}, {"device": y}, {"x_test": x[:3], "y_test": y[:3]}):
        stream = io.BytesIO()
        np.savez(stream, x=x, y=y, **more)
        contents.append(stream.getvalue())
    return contents


def _weights_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    """Changed bytes, or a changed header of the right length."""
    content = draw.choice(examples)
    if draw.random() < 0.3:
        return of_bytes(draw, examples, limit)
    (length,) = struct.unpack_from("<Q", content)
    if draw.random() < 0.5:
        header = content[8 : 8 + length]
        kinds = ("BOOL", "U8", "I64", "F16", "F64", "BF16", "F8_E4M3", "F8_E5M2", "F4", "C64", "U32", "XX")
        header = header.replace(b"F32", draw.choice(kinds).encode(), draw.choice((1, 3)))
    else:
        header = of_json(draw, [content[8 : 8 + length].rstrip()], limit)
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def _bundle(content: bytes) -> None:
    _file(f"bundle/{WEIGHTS}", seeds.weights())
    _file(f"bundle/{TRAIN_STEP}", seeds.TRAIN_STEP)
    _file("bundle/manifest.json", content)
    open_bundle(scratch() / "bundle")


def _reports() -> Sequence[bytes]:
    zeros = dict.fromkeys(("bytes_up", "bytes_down", "bytes_up_dense", "bytes_down_dense", "updates_accepted"), 0)
    totals = {**zeros, "compute_fraction": 0.5, "scoring_fraction": 0, "updates_rejected": 0, "seconds": 1.5}
    config = {"devices": 2, "rounds": 1, "keep": 0.5, "resync_every": 5, "seed": 0, "dataset": "digits", "model": "m"}
    entry = {"round": 1, "accuracy": 0.5, "loss": None, "resync": True, **zeros}
    device = {"id": "kitchen", "kept": {"fc1": 3}, "examples": 10}
    final = {"accuracy": 0.5, "loss": 0.1}
    report = {"config": config, "rounds": [entry], "devices": [device], "final": final, "totals": totals}
    return [msgspec.json.encode(report)]


@cache
def _authority_files() -> dict[str, bytes]:
    from datetime import UTC, datetime  # noqa: PLC0415

    from devices.provisioning.certificates import Subject, Validity, new_key  # noqa: PLC0415

    folder = scratch() / "seed-authority"
    now = datetime(2026, 1, 1, tzinfo=UTC)
    authority = AuthorityFolder.ensure(folder, "Fisherfleet test", Validity.lasting(1000, now))
    authority.issue(Subject("kitchen"), new_key().public_key(), Validity.lasting(10, now))
    authority.revoke("kitchen", now)
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def _authority(name: str, content: bytes) -> None:
    from datetime import UTC, datetime  # noqa: PLC0415

    for other, right in _authority_files().items():
        _file(f"authority/{other}", content if other == name else right)
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


def _target(
    name: str,
    covers: Sequence[str],
    files: Callable[[], Sequence[bytes]],
    mutate: Mutate,
    run: Callable[[bytes], object],
    refusal: type[Exception] | None,
    *,
    limit: int = 64 * 1024,
    cost: int = 8,
    times: int = MOST_MEMORY,
) -> Target:
    refusals = () if refusal is None else (refusal,)
    return Target(name, tuple(covers), cache(files), mutate, run, refusals, limit, cost, times)


PEM_WORDS = ("-----BEGIN PRIVATE KEY-----\n", "-----END PRIVATE KEY-----\n", "-----", "BEGIN RSA ", "ENCRYPTED ", "MC4C", "=", "\n")
TOML_WORDS = ("[", "]", "[[a]]", "{", "=", '"', "'''", "\\u0000", "\\ud800", "#", "\n", "threads = ", "1979-05-27", "inf", "0x")
URL_WORDS = ("mqtt", "mqtts://", ":", "@", "[", "]", "::", "%", "%zz", "%00", "/", "?", "#", "65536", "-1", "٣", " ", "\t")

FILE_TARGETS = (
    _target(
        "broker URL", ["wire_protocol.broker_url.parse_broker_url"], lambda: URLS, of_text(URL_WORDS), _url,
        InvalidValueError, cost=1,
    ),
    _target(
        "device.toml", ["edge_client.config.load_config"], lambda: [DEVICE_TOML],
        of_text((*TOML_WORDS, *URL_WORDS, "\nx = " + "[" * 2000, "9" * 5000)), _config, ConfigError, times=8,
    ),
    _target(
        "key file", ["wire_protocol.identity.load_identities", "wire_protocol.identity.read_private"], _key_files,
        _json_or_pem(PEM_WORDS), lambda content: load_identities(_file("some.key", content)), IdentityError, cost=20,
    ),
    _target(
        "fleet file",
        ["wire_protocol.identity.load_fleet", "wire_protocol.identity.PublicKeysText.read"],
        _fleet_files, of_json, lambda content: load_fleet(_file("fleet.json", content)), IdentityError,
    ),
    _target(
        "registry", ["server.registry.decode_registry", "server.registry.Registry.load"], _registries, of_json,
        lambda content: Registry.load(_file("registry.json", content)).keys("kitchen"), IdentityError, times=16,
    ),
    _target(
        "device memory",
        [
            "edge_client.device_memory.load_memory",
            "edge_client.durable_files.read_checked",
            "edge_client.selection_record.SelectionRecord.read",
        ],
        _memories, of_messagepack, _use_memory, None, cost=40, times=8,
    ),
    _target("outbox", ["edge_client.outbox.Outbox.load"], _parcels, _parcel_mutant, _use_outbox, None, cost=80),
    _target(
        "journal", ["server.partial_files.PartialFiles.open"], _journals, of_bytes, _use_journal, None, cost=60,
    ),
    _target(
        "names of partial files", ["server.partial_files.PartialFiles"],
        lambda: [f"{RUN}.{ROUND}.{DEVICE}.{'0' * 64}".encode()], of_text((".", "run-1", "..", "kitchen", ".journal")),
        _names_of_partials, None, cost=20,
    ),
    _target(
        "examples", ["wire_protocol.examples.load_examples", "wire_protocol.examples.read_npz"], seeds.archives,
        _archive_mutant, _examples, None, limit=MEGABYTE, cost=40,
    ),
    _target(
        "dataset of images", ["devices.emulation.datasets.load_dataset"], _idx_files, _idx_mutant, _idx, None,
        limit=MEGABYTE, cost=60,
    ),
    _target(
        "dataset of arrays", ["devices.emulation.datasets.load_dataset"], _datasets, _archive_mutant, _npz_dataset,
        ExamplesError, limit=MEGABYTE, cost=60,
    ),
    _target(
        "weights", ["server.bundle.read_weights", "server.model_files.ModelFiles.load_version"], lambda: [seeds.weights()],
        _weights_mutant, lambda content: read_weights(_file("w.safetensors", content), LAYOUT), BundleError, cost=12, times=16,
    ),
    _target(
        "bundle folder", ["server.bundle.open_bundle"], lambda: [seeds.bundle_manifest()], of_json, _bundle, BundleError,
        limit=256 * 1024, cost=20, times=16,
    ),
    _target(
        "report", ["devices.emulation.report.decode_report"], _reports, of_json, decode_report, ReportError,
        limit=MEGABYTE, cost=4, times=16,
    ),
    _authority_target(
        "ca.key", _json_or_pem(PEM_WORDS),
        ("devices.provisioning.authority_folder.load_key", "devices.provisioning.certificates.decode_key"),
    ),
    _authority_target(
        "ca.pem", _json_or_pem(PEM_WORDS),
        ("devices.provisioning.authority_folder.load_certificate", "devices.provisioning.authority_folder.AuthorityFolder.open"),
    ),
    _authority_target("records.json", of_json, ("devices.provisioning.authority_folder.AuthorityFolder.open",)),
)  # fmt: skip
