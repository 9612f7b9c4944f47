"""A model small enough to compute by hand, a fleet with keys, a real broker, and devices that follow a script.

The bundle is a folder as export writes it. The broker is mosquitto. A scripted device speaks the wire as a device does,
signed and sealed, but its training is a difference known beforehand.
"""

import asyncio
import shutil
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path

import aiomqtt
import numpy as np
import onnx.numpy_helper
import onnx.parser
import pytest
from safetensors.numpy import save_file
from sqlalchemy import URL

from server.active_runs import ActiveRuns
from server.cancellation import end_tasks
from server.clocks import SYSTEM_CLOCKS
from server.database_url import sqlite_url
from server.downlink import Downlink
from server.operator_keys import FLEET_NAME, OPERATOR_KEY_NAME, Operator, load_operator
from server.presence import Presence
from server.registry import REGISTRY_NAME, Enrolled, Registry, encode_registry
from server.run_host import Premises
from server.runs import Runs
from server.storage import Store
from server.traffic import Traffic
from tests.patience import PATIENCE
from wire_protocol import chunking, messages, tensor_codec, topics
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.bundle_manifest import MANIFEST_NAME, BundleFile, BundleManifest, encode_manifest
from wire_protocol.device_state import DeviceState
from wire_protocol.envelope import Context, open_sealed, seal, verify
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import Fleet, Identity, encode_fleet, new_identity, save_identities
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.messages import Manifest, Need, Receipt, RoundPlan, Slice, Update
from wire_protocol.sub_model import SubModel, gather, sub_shapes, to_bitmaps
from wire_protocol.topics import Part

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
CHUNK_BYTES = 50

EVALUATE_GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
evaluate (float[n,3] batch, int64[n] targets, float[n] example_weights,
          float[h,3] w1, float[h] b1, float[2,h] w2, float[2] b2)
    => (float loss_sum, float correct_sum, float weight_sum)
{
    hidden = Gemm<transB=1>(batch, w1, b1)
    active = Relu(hidden)
    logits = Gemm<transB=1>(active, w2, b2)
    losses = SoftmaxCrossEntropyLoss<reduction="none">(logits, targets)
    weighted = Mul(losses, example_weights)
    loss_sum = ReduceSum<keepdims=0>(weighted)
    predicted = ArgMax<axis=1, keepdims=0>(logits)
    same = Equal(predicted, targets)
    hit = Cast<to=1>(same)
    hits = Mul(hit, example_weights)
    correct_sum = ReduceSum<keepdims=0>(hits)
    weight_sum = ReduceSum<keepdims=0>(example_weights)
}
"""


PREDICT_GRAPH = """
<ir_version: 8, opset_import: ["" : 17]>
predict (float[n,3] batch) => (float[n,2] output)
{
    hidden = Gemm<transB=1>(batch, w1, b1)
    active = Relu(hidden)
    output = Gemm<transB=1>(active, w2, b2)
}
"""


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> URL:
    """A fresh database: the test runs with each kind."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "database.sqlite")
    return request.getfixturevalue("postgresql").new_database()


@pytest.fixture
def layout() -> Layout:
    return Layout(
        parameters=(
            Parameter("w1", (4, 3), (CutAxis(0, "hidden", produces=True),), uses_per_example=1),
            Parameter("b1", (4,), (CutAxis(0, "hidden", produces=True),)),
            Parameter("w2", (2, 4), (CutAxis(1, "hidden"),), uses_per_example=1),
            Parameter("b2", (2,)),
        ),
        groups=(NeuronGroup("hidden", 4),),
    )


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    """Multiples of 1/8, exact in float16."""
    return {
        "w1": np.arange(12, dtype=np.float32).reshape(4, 3) / 8,
        "b1": np.array([1, -1, 2, -2], dtype=np.float32),
        "w2": np.arange(8, dtype=np.float32).reshape(2, 4) / 4 - 1,
        "b2": np.array([0.5, -0.5], dtype=np.float32),
    }


@pytest.fixture
def bundle_folder(tmp_path: Path, layout: Layout, weights: dict[str, np.ndarray]) -> Path:
    folder = tmp_path / "bundle"
    folder.mkdir()
    save_file(weights, folder / "weights.safetensors")
    onnx.save_model(onnx.parser.parse_model(EVALUATE_GRAPH), str(folder / "evaluate.onnx"))
    predict = onnx.parser.parse_model(PREDICT_GRAPH)
    predict.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    onnx.save_model(predict, str(folder / "predict.onnx"))
    files = {
        path.name: BundleFile(sha256(path.read_bytes()).hexdigest(), path.stat().st_size)
        for path in sorted(folder.iterdir())
    }
    manifest = BundleManifest(format=1, model="tiny", input_shape=(3,), classes=2, layout=layout, files=files)
    (folder / MANIFEST_NAME).write_bytes(encode_manifest(manifest))
    return folder


@pytest.fixture
def make_plan() -> Iterator[Callable[..., RoundPlan]]:
    def make(**changes: object) -> RoundPlan:
        values = {
            "run": "run",
            "round": 3,
            "resync_round": 1,
            "model_version": 2,
            "bundle": "0" * 64,
            "model": "1" * 64,
            "deadline": 1e9,
            "local_steps": 5,
            "batch_size": 8,
            "learning_rate": 0.1,
            "keep": 0.5,
        }
        return RoundPlan(**(values | changes))

    return make


@pytest.fixture
def keeping() -> Callable[..., SubModel]:
    def make(*neurons: int) -> SubModel:
        return SubModel({"hidden": np.array(neurons, dtype=np.int64)})

    return make


class ScriptedFleet:
    """The operator's folder, and the keys of devices a to f."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        operator = new_identity()
        self.public = Fleet("fleet", (operator.public,))
        (folder / FLEET_NAME).write_bytes(encode_fleet(self.public))
        save_identities(folder / OPERATOR_KEY_NAME, [operator])
        self.devices: dict[str, Identity] = {name: new_identity() for name in "abcdef"}
        self.enrol(*self.devices)

    def enrol(self, *names: str, revoked: Sequence[str] = ()) -> None:
        registry = {name: Enrolled((self.devices[name].public,), name in revoked) for name in names}
        fresh = self.folder / "new"
        fresh.write_bytes(encode_registry(registry))
        fresh.replace(self.folder / REGISTRY_NAME)

    @property
    def operator(self) -> Operator:
        return load_operator(self.folder)

    @property
    def registry(self) -> Registry:
        return Registry.load(self.folder / REGISTRY_NAME)

    def sealed(self, name: str, plan: RoundPlan, body: bytes) -> bytes:
        context = Context("update", self.public.name, plan.run, plan.round, name)
        return seal(body, context, [self.devices[name]], self.public.operator[0])


@pytest.fixture
def fleet(tmp_path: Path) -> ScriptedFleet:
    return ScriptedFleet(tmp_path / "fleet")


@pytest.fixture
def premises(tmp_path: Path, fleet: ScriptedFleet) -> Iterator[Premises]:
    """A service's without a broker."""
    store, traffic = Store(tmp_path / "state"), Traffic()
    downlink = Downlink(lambda topic, payload, *, retain=False: False, traffic, CHUNK_BYTES, fleet.operator)
    yield Premises(
        state=tmp_path / "state",
        store=store,
        operator=fleet.operator,
        registry=fleet.registry,
        presence=Presence(),
        downlink=downlink,
        traffic=traffic,
        clocks=SYSTEM_CLOCKS,
        evaluation_threads=1,
        on_round=lambda run, record: None,
    )
    store.close()


@pytest.fixture
def active(premises: Premises) -> ActiveRuns:
    return ActiveRuns(premises)


@pytest.fixture
def runs(premises: Premises, active: ActiveRuns) -> Runs:
    return Runs(premises, active)


class Broker:
    """A mosquitto on a free loopback port; it can be killed and started again on the same port."""

    def __init__(self, folder: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> BrokerUrl:
        return BrokerUrl("127.0.0.1", self.port)

    def start(self) -> None:
        command = [str(MOSQUITTO), "-c", str(self._config)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=1):
                return
            time.sleep(0.02)
        pytest.fail("mosquitto does not listen")

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    if MOSQUITTO is None:
        pytest.skip("mosquitto is not installed")
    broker = Broker(tmp_path)
    broker.start()
    yield broker
    broker.kill()


@dataclass
class Device:
    """Speaks the wire as a device does, one step at a time."""

    name: str
    client: aiomqtt.Client
    layout: object
    fleet: ScriptedFleet
    plans: asyncio.Queue[RoundPlan | None] = field(default_factory=asyncio.Queue)
    receipts: asyncio.Queue[Receipt] = field(default_factory=asyncio.Queue)
    needs: asyncio.Queue[Need] = field(default_factory=asyncio.Queue)
    slices: asyncio.Queue[Slice] = field(default_factory=asyncio.Queue)

    async def listen(self) -> None:
        assembly = None
        async for message in self.client.messages:
            topic, payload = str(message.topic), message.payload
            if topic.endswith("/plan"):
                run = topic.split("/")[-2]
                plan = messages.decode(self._verified(payload, "plan", run), RoundPlan) if payload else None
                self.plans.put_nowait(plan)
            elif topic == topics.receipt(self.name):
                self.receipts.put_nowait(messages.decode(self._verified(payload, "receipt"), Receipt))
            elif topic == topics.need(self.name):
                self.needs.put_nowait(messages.decode(self._verified(payload, "need"), Need))
            elif (part := topics.parse_part(topic)).chunk is None:
                assembly = chunking.Assembly(messages.decode(payload, Manifest), 10**6)
            else:
                with suppress(ProtocolError):  # a server that was killed while it sent a slice begins another
                    assembly.add(part.chunk, payload)
                if not assembly.missing:
                    self.slices.put_nowait(self._opened(part, assembly.payload()))

    def _verified(self, payload: bytes, kind: str, run: str = "") -> bytes:
        public = self.fleet.public
        return verify(payload, Context(kind, public.name, run, device="" if run else self.name), public.operator)

    def _opened(self, part: Part, payload: bytes) -> Slice:
        public = self.fleet.public
        context = Context("slice", public.name, part.run, part.round, self.name)
        body = open_sealed(payload, context, [self.fleet.devices[self.name]], public.operator)
        return messages.decode(body, Slice)

    async def next_plan(self, number: int) -> RoundPlan:
        while True:
            plan = await self.plans.get()
            if plan is not None and plan.round >= number:
                assert plan.round == number
                return plan

    async def announce(self, plan: RoundPlan, payload: bytes) -> None:
        manifest = chunking.manifest_of(payload, CHUNK_BYTES)
        await self._publish(Part(self.name, plan.run, plan.round, None), messages.encode(manifest))

    async def send_chunks(self, plan: RoundPlan, payload: bytes, *indices: int) -> None:
        manifest = chunking.manifest_of(payload, CHUNK_BYTES)
        for index in indices or range(manifest.chunk_count):
            if index < manifest.chunk_count:
                content = chunking.chunk(payload, manifest, index)
                await self._publish(Part(self.name, plan.run, plan.round, index), content)

    async def send(self, plan: RoundPlan, payload: bytes, again_after: float = 2.0) -> Receipt:
        """Announce the payload until its receipt comes, and send what the server needs."""
        digest = sha256(payload).digest()
        answering = asyncio.create_task(self._answer_needs(plan, payload))
        try:
            while True:
                await self.announce(plan, payload)
                with suppress(TimeoutError):
                    async with asyncio.timeout(again_after):
                        while (receipt := await self.receipts.get()).sha256 != digest:
                            pass
                        return receipt
        finally:
            await end_tasks([answering])

    async def _answer_needs(self, plan: RoundPlan, payload: bytes) -> None:
        while True:
            need = await self.needs.get()
            if (need.run, need.round) == (plan.run, plan.round):
                await self.send_chunks(plan, payload, *need.missing)

    def update(
        self,
        plan: RoundPlan,
        kept: SubModel,
        difference: float | np.random.Generator,
        examples: int = 1,
        ledger: LedgerMark | None = None,
    ) -> bytes:
        """The sealed payload of an update whose every value is `difference`, or drawn by it."""
        return self.sealed(plan, self.body(plan, kept, difference, examples, ledger))

    def sealed(self, plan: RoundPlan, body: bytes) -> bytes:
        return self.fleet.sealed(self.name, plan, body)

    def body(
        self,
        plan: RoundPlan,
        kept: SubModel,
        difference: float | np.random.Generator,
        examples: int = 1,
        ledger: LedgerMark | None = None,
    ) -> bytes:
        drawn = isinstance(difference, np.random.Generator)
        full = {
            p.name: (difference.normal(size=p.shape) if drawn else np.full(p.shape, difference)).astype(np.float32)
            for p in self.layout.parameters
        }
        shapes = sub_shapes(self.layout, kept.widths)
        return messages.encode(
            Update(
                run=plan.run,
                round=plan.round,
                model_version=plan.model_version,
                examples=examples,
                trained=40,
                scored=3 if plan.resync else 0,
                kept=to_bitmaps(self.layout, kept),
                precision=plan.precision,
                values=tensor_codec.encode(gather(self.layout, kept, full), shapes, plan.codec),
                ledger=ledger,
            )
        )

    async def _publish(self, part: Part, payload: bytes) -> None:
        await self.client.publish(topics.uplink(part), payload, qos=1)


@asynccontextmanager
async def _connected(broker: Broker, fleet: ScriptedFleet, name: str, layout: object) -> AsyncIterator[Device]:
    gone = aiomqtt.Will(topics.state(name), messages.encode(DeviceState(online=False)), qos=1, retain=True)
    async with aiomqtt.Client("127.0.0.1", broker.port, identifier=name, will=gone) as client:
        device = Device(name, client, layout, fleet)
        await client.subscribe([(topics.downlink_filter(name), 1), (topics.plan("+"), 1)])
        state = messages.encode(DeviceState(online=True, examples=12, runtime="scripted", client="0"))
        await client.publish(topics.state(name), state, qos=1, retain=True)
        listener = asyncio.create_task(device.listen())
        try:
            yield device
        finally:
            await end_tasks([listener])
            with suppress(aiomqtt.MqttError):
                farewell = messages.encode(DeviceState(online=False))
                await client.publish(topics.state(name), farewell, qos=1, retain=True)


@pytest.fixture
def connected(
    broker: Broker, fleet: ScriptedFleet, layout: Layout
) -> Callable[[str], AbstractAsyncContextManager[Device]]:
    return lambda name: _connected(broker, fleet, name, layout)
