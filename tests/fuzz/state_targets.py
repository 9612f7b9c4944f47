"""Targets for what programs of ours, or other versions of them, left on a disk that may have rotted."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from random import Random

import msgspec
import numpy as np

from devices.emulation.report import ReportError, decode_report
from edge_client.calibration import Calibration, Measured, load_calibration, save_calibration
from edge_client.device_memory import load_memory, save_memory
from edge_client.errors import BudgetSpentError, DamagedFileError, LedgerError
from edge_client.outbox import Outbox
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import Book, Charge, Entry
from edge_client.privacy.ledger import (
    LEDGER_FILE,
    WITNESS_FILE,
    Ledger,
    lines_of,
    read_ledger,
    read_witness,
    write_witness,
)
from edge_client.privacy.ledger_reset import reset_ledger
from edge_client.privacy.status import as_json, as_table, status_of
from edge_client.residual_store import ResidualStore
from edge_client.round_events import Selection
from edge_client.round_phases import Memory
from server.bundle import open_bundle, read_weights
from server.errors import BundleError
from server.partial_files import PartialFiles
from tests.fuzz import seeds
from tests.fuzz.files import MEGABYTE, empty_folder, file_of, target_of
from tests.fuzz.mutations import of_bytes, of_json, of_messagepack, of_text
from tests.fuzz.seeds import DEVICE, FLEET, KEPT, LAYOUT, ROUND, RUN, scratch
from wire_protocol.bundle_manifest import TRAIN_STEP, WEIGHTS
from wire_protocol.chunking import chunk, manifest_of
from wire_protocol.errors import ProtocolError
from wire_protocol.privacy import GaussianReleases
from wire_protocol.topics import Part


def _memories() -> Sequence[bytes]:
    path, selection = scratch() / "seed.memory", Selection(RUN, "0" * 64, 1, 3, KEPT)
    save_memory(path, FLEET, Memory({RUN: selection}, {RUN: 3, "other": 9}))
    return [path.read_bytes()[32:]]


def _use_memory(content: bytes) -> None:
    """Whatever is remembered can be used and written again."""
    path = file_of("memory", sha256(content).digest() + content)
    memory = load_memory(path, FLEET).with_round(RUN, ROUND)
    save_memory(path, FLEET, memory)
    again = load_memory(path, FLEET)
    if again != memory:
        raise ValueError(f"memory changed on disk: {memory} {again}")


def _parcels() -> Sequence[bytes]:
    """Outbox files without their digest."""
    outbox = Outbox(empty_folder("seed-outbox"), FLEET, MEGABYTE)
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
    folder = empty_folder("outbox")
    file_of(f"outbox/{RUN}.{ROUND}.sealed", sha256(content).digest() + content)
    outbox = Outbox(folder, FLEET, MEGABYTE)
    outbox.load()
    for parcel in outbox.parcels:
        with suppress(DamagedFileError):
            outbox.payload(parcel)
    outbox.add(RUN, ROUND, b"fresh", None)
    outbox.add(RUN, ROUND + 1, b"fresh", None)
    outbox.payload(outbox.of_round(RUN, ROUND + 1))


def _calibrations() -> Sequence[bytes]:
    path = scratch() / "seed.calibration"
    save_calibration(path, Calibration("key", (Measured({"fc1": 8}, 0.001, 0.01, 50.0),), None))
    return [path.read_bytes()[32:]]


def _use_calibration(content: bytes) -> None:
    path = file_of("calibration", sha256(content).digest() + content)
    load_calibration(path, "key")


PAYLOAD = bytes(range(256)) * 10
PAYLOAD_MANIFEST = manifest_of(PAYLOAD, 100)


def _journals() -> Sequence[bytes]:
    files = PartialFiles(empty_folder("seed-partial"), RUN)
    payload = files.open(Part(DEVICE, RUN, ROUND, None), PAYLOAD_MANIFEST)
    for index in range(0, PAYLOAD_MANIFEST.chunk_count, 2):
        payload.add(index, chunk(PAYLOAD, PAYLOAD_MANIFEST, index))
    return [path.read_bytes() for path in (scratch() / "seed-partial").glob("*.journal")]


def _use_journal(content: bytes) -> None:
    """Whatever the journal says, the payload becomes whole in two turns at most: a wrong journal costs the first."""
    folder = empty_folder("partial")
    stem = f"{RUN}.{ROUND}.{DEVICE}.{PAYLOAD_MANIFEST.sha256.hex()}"
    file_of(f"partial/{stem}.journal", content)
    file_of(f"partial/{stem}.data", PAYLOAD[:1000] + bytes(100))
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
    folder = empty_folder("partial-names")
    name = content.decode(errors="replace").replace("/", "-").replace("\0", "-")[:80] or "x"
    for ending in (".journal", ".data", ""):
        file_of(f"partial-names/{name}{ending}", b"FJ1\n" + struct.pack("<QQ", 10, 10))
    files = PartialFiles(folder, RUN)
    files.forget_before(ROUND)


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
    file_of(f"bundle/{WEIGHTS}", seeds.weights())
    file_of(f"bundle/{TRAIN_STEP}", seeds.TRAIN_STEP)
    file_of("bundle/manifest.json", content)
    open_bundle(scratch() / "bundle")


def _residuals() -> Sequence[bytes]:
    """Residual files without their digest."""
    store = ResidualStore(empty_folder("seed-residuals"))
    store.propose(RUN, ROUND, {one.name: np.ones(one.shape, np.float32) for one in LAYOUT.parameters})
    return [path.read_bytes()[32:] for path in store.folder.iterdir()]


def _use_residual(content: bytes) -> None:
    """Whatever is on disk, there is a residual of the right shapes."""
    file_of(f"residuals/{RUN}.residual", sha256(content).digest() + content)
    found = ResidualStore(scratch() / "residuals").load(RUN, LAYOUT)
    if {name: array.shape for name, array in found.items()} != {one.name: one.shape for one in LAYOUT.parameters}:
        raise ValueError("a residual of another model")


def _reports() -> Sequence[bytes]:
    zeros = dict.fromkeys(("bytes_up", "bytes_down", "bytes_up_dense", "bytes_down_dense", "updates_accepted"), 0)
    totals = {**zeros, "compute_fraction": 0.5, "scoring_fraction": 0, "updates_rejected": 0, "seconds": 1.5}
    config = {"devices": 2, "rounds": 1, "keep": 0.5, "resync_every": 5, "seed": 0, "dataset": "digits", "model": "m"}
    entry = {"round": 1, "accuracy": 0.5, "loss": None, "resync": True, **zeros}
    device = {"id": "kitchen", "kept": {"fc1": 3}, "examples": 10}
    final = {"accuracy": 0.5, "loss": 0.1}
    report = {"config": config, "rounds": [entry], "devices": [device], "final": final, "totals": totals}
    return [msgspec.json.encode(report)]


CHARGE = Charge(RUN, ROUND, "training", (GaussianReleases(1.1, 0.02, 50), GaussianReleases(20.0)))


def _ledgers() -> Sequence[bytes]:
    entries = [Entry(1, 1.5, CHARGE), Entry(2, None, CHARGE), Entry(9, 1e9, None), Entry(10, 1e9, CHARGE)]
    return [Book().write(entries[:count]) for count in (1, 2, 4)]


def _ledger_mutant(draw: Random, examples: Sequence[bytes], limit: int) -> bytes:
    """Changed bytes, or a changed entry in a chain that is whole again."""
    if draw.random() < 0.4:
        return of_bytes(draw, examples, limit)
    bodies = [line[65:] for line in draw.choice(examples).splitlines()]
    at = draw.randrange(len(bodies))
    bodies[at] = of_json(draw, [bodies[at]], limit)
    head, lines = Book().head, []
    for body in bodies:
        head = sha256(head + body).digest()
        lines.append(head.hex().encode() + b" " + body)
    return b"\n".join((*lines, draw.choice((b"", b"torn"))))[:limit]


def _use_ledger(content: bytes) -> None:
    """A ledger that its witness knows as far as its last reset is told and charged, or refused and reset."""
    folder = empty_folder("ledger")
    book = Book()
    with suppress(LedgerError):
        for line in lines_of(file_of(f"ledger/{LEDGER_FILE}", content)):
            book.read(line)
    write_witness(folder, (book if book.known_from else Book()).mark)
    try:
        _charge(folder)
    except LedgerError:
        reset_ledger(folder, 0.0)
        _charge(folder)
        raise


def _charge(folder: Path) -> None:
    status = status_of(read_ledger(folder), Cap())
    as_table(status)
    msgspec.json.encode(as_json(status))
    ledger = Ledger(folder, Cap(1e9))
    with suppress(BudgetSpentError):
        ledger.charge(None, CHARGE)
        if Ledger(folder, Cap()).head != ledger.head:
            raise ValueError("the ledger changed on disk")


def _witnesses() -> Sequence[bytes]:
    write_witness(empty_folder("seed-witness"), Book().mark)
    return [(scratch() / "seed-witness" / WITNESS_FILE).read_bytes()[32:]]


def _use_witness(content: bytes) -> None:
    """A witness beside no ledger, as a server may have it written: what it knows of is reset and charged."""
    folder = empty_folder("witness")
    file_of(f"witness/{WITNESS_FILE}", sha256(content).digest() + content)
    read_witness(folder)
    with suppress(LedgerError):
        reset_ledger(folder, 0.0)
    _charge(folder)


STATE_TARGETS = (
    target_of(
        "device memory",
        [
            "edge_client.device_memory.load_memory",
            "edge_client.durable_files.read_checked",
            "edge_client.selection_record.SelectionRecord.read",
        ],
        _memories,
        of_messagepack,
        _use_memory,
        None,
        cost=40,
        times=8,
    ),
    target_of(
        "outbox", ["edge_client.outbox.Outbox.load"], _parcels, _parcel_mutant, _use_outbox, None, cost=80, times=8
    ),
    target_of(
        "residual",
        ["edge_client.residual_store.ResidualStore.load"],
        _residuals,
        of_bytes,
        _use_residual,
        None,
        cost=20,
    ),
    target_of(
        "calibration",
        ["edge_client.calibration.load_calibration"],
        _calibrations,
        of_messagepack,
        _use_calibration,
        None,
        cost=10,
        times=8,
    ),
    target_of(
        "privacy ledger",
        [
            "edge_client.privacy.charges.Book.read",
            "edge_client.privacy.charges.decode_entry",
            "edge_client.privacy.charges.read_book",
            "edge_client.privacy.ledger.read_ledger",
        ],
        _ledgers,
        _ledger_mutant,
        _use_ledger,
        LedgerError,
        cost=80,
        times=16,
    ),
    target_of(
        "witness of the ledger",
        ["edge_client.privacy.ledger.read_witness"],
        _witnesses,
        of_messagepack,
        _use_witness,
        LedgerError,
        times=8,
    ),
    target_of(
        "journal",
        ["server.partial_files.PartialFiles.open"],
        _journals,
        of_bytes,
        _use_journal,
        None,
        cost=60,
    ),
    target_of(
        "names of partial files",
        ["server.partial_files.PartialFiles"],
        lambda: [f"{RUN}.{ROUND}.{DEVICE}.{'0' * 64}".encode()],
        of_text((".", "run-1", "..", "kitchen", ".journal")),
        _names_of_partials,
        None,
        cost=20,
    ),
    target_of(
        "weights",
        ["server.bundle.read_weights", "server.model_files.ModelFiles.load_version"],
        lambda: [seeds.weights()],
        _weights_mutant,
        lambda content: read_weights(file_of("w.safetensors", content), LAYOUT),
        BundleError,
        cost=12,
        times=16,
    ),
    target_of(
        "bundle folder",
        ["server.bundle.open_bundle"],
        lambda: [seeds.bundle_manifest()],
        of_json,
        _bundle,
        BundleError,
        limit=256 * 1024,
        cost=20,
        times=16,
    ),
    target_of(
        "report",
        ["devices.emulation.report.decode_report"],
        _reports,
        of_json,
        decode_report,
        ReportError,
        limit=MEGABYTE,
        cost=4,
        times=16,
    ),
)
