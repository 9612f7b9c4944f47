"""What the server's intake takes: updates a second in one thread, and memory while few or many devices send at once.

    python -m benchmarks.intake --json intake.json

Speed: manifest and one chunk through topic, registry and admission to a whole payload, then the seal opened and the
signature checked; `open` alone is the last two. Memory: a fresh process for each row plays a server to which all
devices announce at once, and whose broker delivers everything that is asked for before any of it is judged; peak is
VmHWM of /proc, and `over idle` what it has above a server to which nobody sends. Payloads lie in files until they are
asked for. Nothing here is the broker's or the spool's work.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.figures import benchmark_parser, publish
from server.inbox import Inbox
from server.intake import Desk, Intake
from server.opening import open_update
from server.operator_keys import Operator
from server.partial_files import PartialFiles
from server.receipts import refusal
from server.registry import Enrolled, Registry, encode_registry
from server.traffic import Traffic
from server.uplink import DEFAULT_BUDGET_BYTES, Complete, Uplink
from wire_protocol import chunking, messages, topics
from wire_protocol.envelope import Context, seal
from wire_protocol.identity import Identity, new_identity
from wire_protocol.messages import Manifest, Need, Receipt
from wire_protocol.topics import Part

KB, MB = 1000, 1_000_000
LARGEST = 2 * MB
SPEED_DEVICES, SPEED_BYTES, REPEATS = 500, 100 * KB, 5
MEMORY_ROWS = ((10, 100 * KB), (1000, 100 * KB), (10, MB), (200, MB))


@dataclass
class Sent:
    """What the server asked for; stands in for the downlink."""

    needs: list[tuple[str, Need]] = field(default_factory=list)

    def need(self, device: str, need: Need) -> None:
        """Note it."""
        self.needs.append((device, need))

    def receipt(self, device: str, receipt: Receipt) -> None:
        """None is expected here."""
        raise AssertionError(f"{device} was refused: {receipt.reason}")

    def take(self) -> list[tuple[str, Need]]:
        """What was asked for since."""
        needs, self.needs = self.needs, []
        return needs


class NothingStands:
    """Every update is to be judged, at once."""

    resting = False

    def standing(self, part: Part, sha256: bytes) -> Receipt | None:
        """Never."""
        del part, sha256
        return None

    def refuse(self, part: Part, sha256: bytes, reason: str) -> Receipt:
        """For good."""
        return refusal(part, sha256, reason)


class Fleet:
    """A server's intake and its devices, in `folder`; no broker between them."""

    def __init__(self, folder: Path, devices: int) -> None:
        self.operator = Operator("fleet", (new_identity(),))
        self.identities = {f"device-{number}": new_identity() for number in range(devices)}
        registry = folder / "devices.json"
        registry.write_bytes(encode_registry({name: Enrolled((one.public,)) for name, one in self.identities.items()}))
        self.registry, self.inbox, self.sent = Registry.load(registry), Inbox(), Sent()
        files = PartialFiles(folder / "partial", "run")
        self.uplink = Uplink(DEFAULT_BUDGET_BYTES, LARGEST, files, time.monotonic)
        downlink: Any = self.sent
        self.intake = Intake(
            {"run": Desk(self.uplink, NothingStands())},
            downlink,
            Traffic(),
            self.inbox,
            self.registry,
            lambda *_: None,
            lambda *_: None,
        )

    def sealed(self, device: str, identity: Identity, size: int) -> bytes:
        """An update of random bytes."""
        context = Context("update", "fleet", "run", 1, device)
        return seal(os.urandom(size), context, (identity,), self.operator.identities[0].public)

    async def judge(self) -> int:
        """Open all that came whole and let it go; how many."""
        judged = 0
        while not self.inbox._queue.empty():
            batch = await self.inbox.get_batch()
            for complete in batch:
                assert isinstance(complete, Complete)
                assert isinstance(open_update(complete, self.operator, self.registry), bytes)
                self.uplink.release(complete.part)
            judged += len(batch)
            self.intake.on_tick()
        return judged


def topic(device: str, chunk: int | None) -> str:
    """Where a device publishes."""
    return topics.uplink(Part(device, "run", 1, chunk))


def speed(folder: Path) -> dict[str, float]:
    """Updates a second, the best of some passes."""
    fleet = Fleet(folder, SPEED_DEVICES)
    payloads = {name: fleet.sealed(name, one, SPEED_BYTES) for name, one in fleet.identities.items()}
    announced = {name: chunking.manifest_of(payload) for name, payload in payloads.items()}
    asyncio.run(one_pass(fleet, payloads, announced))
    taking, opening = min((asyncio.run(one_pass(fleet, payloads, announced)) for _ in range(REPEATS)), key=sum)
    return {
        "intake_updates_per_s": SPEED_DEVICES / taking,
        "open_updates_per_s": SPEED_DEVICES / opening,
        "both_updates_per_s": SPEED_DEVICES / (taking + opening),
    }


async def one_pass(fleet: Fleet, payloads: dict[str, bytes], announced: dict[str, Manifest]) -> tuple[float, float]:
    """Seconds for taking and for opening an update of every device, one after the other."""
    taking = opening = 0.0
    for device, payload in payloads.items():
        start = time.perf_counter()
        fleet.intake.on_message(topic(device, None), messages.encode(announced[device]))
        fleet.intake.on_message(topic(device, 0), payload)
        middle = time.perf_counter()
        assert await fleet.judge() == 1
        taking += middle - start
        opening += time.perf_counter() - middle
        fleet.sent.take()
    return taking, opening


def announce_all(fleet: Fleet, folder: Path, size: int) -> dict[str, Manifest]:
    """Every device seals an update of `size` bytes, keeps it in a file and announces it."""
    announced = {}
    for device, identity in fleet.identities.items():
        payload = fleet.sealed(device, identity, size)
        (folder / device).write_bytes(payload)
        announced[device] = chunking.manifest_of(payload)
    for device, manifest in announced.items():
        fleet.intake.on_message(topic(device, None), messages.encode(manifest))
    return announced


def asked_for(fleet: Fleet, folder: Path, announced: dict[str, Manifest]) -> Iterator[tuple[str, bytes]]:
    """The chunks that the server asked for, topic and content."""
    for device, need in fleet.sent.take():
        manifest = announced[device]
        for index in need.missing:
            with (folder / device).open("rb") as file:
                file.seek(index * manifest.chunk_bytes)
                yield topic(device, index), file.read(manifest.chunk_bytes)


async def everyone_sends(devices: int, size: int) -> None:
    """All announce at once; what is asked for arrives; then it is judged; and so on until all is counted."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        fleet = Fleet(folder, devices)
        announced = announce_all(fleet, folder, size)
        judged = 0
        while judged < devices:
            for where, content in asked_for(fleet, folder, announced):
                fleet.intake.on_message(where, content)
            judged += await fleet.judge()


def peak_mb(devices: int, size: int) -> float:
    """Peak resident memory of a fresh process that plays the server, in MB (10^6 bytes)."""
    code = f"from benchmarks.intake import play; play({devices}, {size})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout))


def play(devices: int, size: int) -> None:
    """Let devices send and print the peak."""
    asyncio.run(everyone_sends(devices, size))
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(next(int(line.split()[1]) * 1024 / MB for line in status.splitlines() if line.startswith("VmHWM")))  # noqa: T201


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Speed and memory of the server's intake.")
    options = parser.parse_args()
    with TemporaryDirectory() as folder:
        speeds = speed(Path(folder))
    publish(
        f"one thread, updates of {SPEED_BYTES // KB} KB in one chunk, best of {REPEATS} passes",
        [
            {
                "stage": name.removesuffix("_updates_per_s"),
                "updates/s": f"{rate:.0f}",
                "MB/s": f"{rate * SPEED_BYTES / MB:.0f}",
            }
            for name, rate in speeds.items()
        ],
        {},
        None,
    )
    idle = peak_mb(1, 1)
    peaks = {(devices, size): peak_mb(devices, size) for devices, size in MEMORY_ROWS}
    rows = [
        {
            "devices at once": f"{devices}",
            "update KB": f"{size // KB}",
            "announced MB": f"{devices * size / MB:.0f}",
            "peak MB": f"{peak:.0f}",
            "over idle": f"{peak - idle:.0f}",
        }
        for (devices, size), peak in peaks.items()
    ]
    figures = speeds | {f"peak_mb_{devices}_devices_{size // KB}_kb": peak for (devices, size), peak in peaks.items()}
    title = f"memory, {DEFAULT_BUDGET_BYTES / MB:.1f} MB under way at most"
    publish(title, rows, figures | {"idle_mb": idle}, options.json)


if __name__ == "__main__":
    main()
