"""Updates a second that one server process receives, opens, verifies, spools and answers, from hundreds of devices.

    python -m benchmarks.update_load --devices 10 500 1000 --json load.json

A real mosquitto, `fisherfleet serve` in a process of its own, and this process in place of the devices: light MQTT
clients that hold updates sealed beforehand, announce them when a plan comes, send what the server asks for and wait for
receipts. An update is a whole MLP for digits at float16, 102 kB. A round's rate is its updates over the time from its
plan to its last receipt; the first round is not counted. All share the machine's processors. Peak memory is the
server's.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import numpy as np

from benchmarks.figures import benchmark_parser, publish
from benchmarks.light_mqtt import LightClient
from devices.emulation.broker import embedded_broker
from model_export.export import export_bundle
from model_export.model_source import build_model
from server.registry import Enrolled, encode_registry
from wire_protocol import topics
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.bundle_manifest import BundleManifest
from wire_protocol.chunking import chunk, manifest_of
from wire_protocol.device_state import DeviceState
from wire_protocol.envelope import Context, Signed, seal
from wire_protocol.identity import Fleet, Identity, encode_fleet, new_identity, save_identities
from wire_protocol.messages import Manifest, Need, Receipt, RoundPlan, Update, decode, encode
from wire_protocol.sub_model import full_sub_model, sub_shapes, to_bitmaps
from wire_protocol.tensor_codec import Codec
from wire_protocol.tensor_codec import encode as encode_tensors

FLEET, RUN, INPUT_SHAPE, CLASSES = "load", "load", (1, 8, 8), 10
PATIENCE_SECONDS = 300.0
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Party:
    """Everyone's keys, the bundle and the folders of one benchmark."""

    folder: Path
    operator: Identity
    devices: dict[str, Identity]
    manifest: BundleManifest


@dataclass
class RoundClock:
    """When a round's plan was first seen and how many of its updates have a receipt."""

    began: float
    receipts: int = 0
    ended: float = 0.0


@dataclass(frozen=True)
class Held:
    """An update in a device's outbox."""

    payload: bytes
    manifest: Manifest


@dataclass
class Swarm:
    """All devices: what they hold, and what they have seen."""

    outboxes: dict[tuple[str, int], Held]
    rounds: dict[int, RoundClock] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)
    clients: dict[str, LightClient] = field(default_factory=dict)

    def on_message(self, device: str, topic: str, payload: bytes) -> None:
        """Answer a plan with a manifest and a need with chunks; note receipts."""
        if not payload:
            return
        if topic.endswith("/plan"):
            plan = decode(decode(payload, Signed).body, RoundPlan)
            if (device, plan.round) in self.outboxes:
                self.rounds.setdefault(plan.round, RoundClock(time.perf_counter()))
                self._announce(device, plan.round)
        elif topic == topics.need(device):
            self._send(device, decode(decode(payload, Signed).body, Need))
        elif topic == topics.receipt(device):
            self._note(device, decode(decode(payload, Signed).body, Receipt))

    def _announce(self, device: str, number: int) -> None:
        manifest = encode(self.outboxes[device, number].manifest)
        self.clients[device].publish(topics.uplink(topics.Part(device, RUN, number, None)), manifest)

    def _send(self, device: str, need: Need) -> None:
        held = self.outboxes[device, need.round]
        for index in need.missing:
            part = topics.Part(device, RUN, need.round, index)
            self.clients[device].publish(topics.uplink(part), chunk(held.payload, held.manifest, index))

    def _note(self, device: str, receipt: Receipt) -> None:
        if not receipt.accepted:
            self.refused.append(f"{device}: {receipt.reason}")
        clock = self.rounds[receipt.round]
        clock.receipts += 1
        clock.ended = time.perf_counter()


def make_party(folder: Path, devices: int) -> Party:
    """Export the model and make a fleet folder with fresh keys."""
    module = build_model("mlp", INPUT_SHAPE, CLASSES, seed=0)
    manifest = export_bundle(module, INPUT_SHAPE, folder / "bundle", name="mlp")
    operator = new_identity()
    identities = {f"device-{number:04}": new_identity() for number in range(devices)}
    fleet = folder / "fleet"
    fleet.mkdir()
    save_identities(fleet / "operator.key", [operator])
    (fleet / "fleet.json").write_bytes(encode_fleet(Fleet(FLEET, (operator.public,))))
    registry = encode_registry({name: Enrolled((identity.public,)) for name, identity in identities.items()})
    (fleet / "devices.json").write_bytes(registry)
    return Party(folder, operator, identities, manifest)


def sealed_updates(party: Party, rounds: int) -> dict[tuple[str, int], Held]:
    """Each device's update for each round, the same random values, sealed."""
    layout = party.manifest.layout
    whole = full_sub_model(layout)
    shapes = sub_shapes(layout, whole.widths)
    generator = np.random.default_rng(0)
    drawn = {name: generator.standard_normal(shape, np.float32) * 1e-3 for name, shape in shapes.items()}
    values = encode_tensors(drawn, shapes, Codec("float16"), compress=False)
    kept = to_bitmaps(layout, whole)
    counts = {"examples": 1, "trained": 1, "scored": 0}
    outboxes = {}
    for number in range(1, rounds + 1):
        update = Update(
            run=RUN, round=number, model_version=number - 1, kept=kept, precision="float16", values=values, **counts
        )
        body = encode(update)
        for device, identity in party.devices.items():
            context = Context("update", FLEET, RUN, number, device)
            payload = seal(body, context, [identity], party.operator.public)
            outboxes[device, number] = Held(payload, manifest_of(payload))
    return outboxes


@contextmanager
def serving(party: Party, broker: BrokerUrl, rounds: int) -> Iterator[subprocess.Popen[bytes]]:
    """`fisherfleet serve` in its own process."""
    count = str(len(party.devices))
    options = {
        "bundle": party.folder / "bundle",
        "fleet": party.folder / "fleet",
        "state": party.folder / "state",
        "broker": broker,
        "port": 0,
        "run": RUN,
        "rounds": rounds,
        "keep": 1,
        "precision": "float16",
        "resync-every": 1,
        "min-devices": count,
        "quorum": count,
        "round-seconds": PATIENCE_SECONDS,
        "privacy": "none",
    }
    arguments = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    log = (party.folder / "server.log").open("wb")
    process = subprocess.Popen([sys.executable, "-m", "server", *arguments], stdout=log, stderr=log)
    try:
        yield process
    finally:
        process.terminate()
        process.wait()
        log.close()


@asynccontextmanager
async def swarm_on(broker: BrokerUrl, outboxes: dict[tuple[str, int], Held]) -> AsyncIterator[Swarm]:
    """All devices connected, subscribed and said to be there."""
    swarm = Swarm(outboxes)
    loop = asyncio.get_running_loop()
    try:
        for device in dict.fromkeys(device for device, _ in outboxes):
            filters = (topics.downlink_filter(device), topics.plan(RUN))

            def client(device: str = device, filters: tuple[str, ...] = filters) -> LightClient:
                return LightClient(device, filters, lambda *message: swarm.on_message(device, *message))

            _, swarm.clients[device] = await loop.create_connection(client, broker.host, broker.port)
            await swarm.clients[device].ready
            swarm.clients[device].publish(topics.state(device), encode(DeviceState(online=True)), retain=True)
        yield swarm
    finally:
        for each in swarm.clients.values():
            each.close()


@dataclass(frozen=True)
class Load:
    """Updates a second of each round after the first, and the server's peak resident memory in MB (10^6 bytes)."""

    rates: list[float]
    server_mb: float


async def carry(party: Party, rounds: int) -> Load:
    """Carry all updates of all rounds to a server."""
    server_mb = 0.0
    outboxes = sealed_updates(party, rounds)
    async with embedded_broker(party.folder / "broker") as broker:
        with serving(party, broker, rounds) as server:
            async with swarm_on(broker, outboxes) as swarm, asyncio.timeout(PATIENCE_SECONDS):
                while server.poll() is None:
                    server_mb = peak_mb(server.pid) or server_mb
                    await asyncio.sleep(POLL_SECONDS)
    count = len(party.devices)
    if swarm.refused or any(clock.receipts < count for clock in swarm.rounds.values()) or len(swarm.rounds) < rounds:
        log = (party.folder / "server.log").read_text()[-2000:]
        raise SystemExit(f"the server did not count every update: {swarm.refused[:3]} {swarm.rounds}\n{log}")
    return Load([count / (clock.ended - clock.began) for _, clock in sorted(swarm.rounds.items())][1:], server_mb)


def peak_mb(process: int) -> float:
    """Peak resident memory of a process, 0 once it is gone."""
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    peaks = [line for line in status.splitlines() if line.startswith("VmHWM")]
    return int(peaks[0].split()[1]) * 1024 / 1e6 if peaks else 0.0


def measure(devices: int, rounds: int) -> tuple[Load, int]:
    """The load carried, and the size of an update in bytes."""
    with TemporaryDirectory() as folder:
        party = make_party(Path(folder), devices)
        size = len(next(iter(sealed_updates(party, 1).values())).payload)
        return asyncio.run(carry(party, rounds)), size


def main() -> None:
    """Run the benchmark."""
    parser = benchmark_parser("Updates a second that one server process takes in, and the memory it needs.")
    parser.add_argument("--devices", type=int, nargs="+", default=[10, 500, 1000], help="fleets (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=4, help="rounds of each fleet (default: %(default)s)")
    options = parser.parse_args()
    rows, figures = [], []
    for devices in options.devices:
        load, size = measure(devices, options.rounds)
        rate = median(load.rates)
        figures.append({"devices": devices, "updates_per_s": load.rates, "server_mb": load.server_mb})
        rows.append(
            {
                "devices": str(devices),
                "bytes an update": str(size),
                "updates / s": f"{rate:.0f}",
                "MB / s": f"{rate * size / 1e6:.1f}",
                "slowest and fastest round": f"{min(load.rates):.0f} to {max(load.rates):.0f}",
                "server's peak MB": f"{load.server_mb:.0f}",
            }
        )
    title = f"received, opened, verified, spooled and answered; {os.cpu_count()} processors for all"
    publish(title, rows, {"fleets": figures}, options.json)


if __name__ == "__main__":
    main()
