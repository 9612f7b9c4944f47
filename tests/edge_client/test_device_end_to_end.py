"""A device against a real broker and a server written out by hand."""

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiomqtt
import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.numpy import load_file

from edge_client.config import DeviceConfig
from edge_client.local_update import Choice, LocalWork, train_update
from edge_client.runner import run_device
from edge_client.training.portable import PortableRuntime
from model_export.export import export_bundle
from wire_protocol import messages, topics
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.bundle_manifest import MANIFEST_NAME, WEIGHTS, bundle_id
from wire_protocol.chunking import Assembly, chunk, manifest_of
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, from_bitmaps, gather, selection_id, sub_shapes
from wire_protocol.tensor_codec import Codec, decode, encode

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
RUN, DEVICE = "digits", "pi-1"
PATIENCE = 30

pytestmark = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def broker(folder: Path):
    port = free_port()
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\npersistence false\n")
    process = subprocess.Popen([str(MOSQUITTO), "-c", str(config)], stderr=subprocess.DEVNULL)
    try:
        while True:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert process.poll() is None
            time.sleep(0.02)
        yield port
    finally:
        process.terminate()
        process.wait()


@contextmanager
def web_server(pages: dict[str, bytes]):
    """Serve `pages` by path; yields the URL and how often each path was asked for."""
    asked: Counter[str] = Counter()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked[self.path] += 1
            content = pages.get(self.path)
            self.send_response(404 if content is None else 200)
            self.send_header("Content-Length", str(len(content or b"")))
            self.end_headers()
            self.wfile.write(content or b"")

        def log_message(self, *arguments):
            del arguments

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class ScriptedServer:
    """The server's end of the wire, one step at a time."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._messages = client.messages

    async def next(self) -> aiomqtt.Message:
        return await asyncio.wait_for(anext(self._messages), PATIENCE)

    async def state(self) -> messages.DeviceState:
        while True:
            message = await self.next()
            if str(message.topic) == topics.state(DEVICE):
                return messages.decode(message.payload, messages.DeviceState)

    async def publish_plan(self, plan: messages.RoundPlan) -> None:
        await self._client.publish(topics.plan(RUN), messages.encode(plan), qos=1, retain=True)

    async def update(self, number: int, lose: set[int]) -> tuple[messages.Update, bytes]:
        """The update of a round, losing the chunks in `lose` the first time they come."""
        payload, digest = await self.payload(number, lose)
        return messages.decode(payload, messages.Update), digest

    async def payload(self, number: int, lose: set[int]) -> tuple[bytes, bytes]:
        """Put together what the device sends in a round, and its hash."""
        assembly = None
        manifests = 0
        while assembly is None or assembly.missing:
            message = await self.next()
            part = topics.parse_part(str(message.topic))
            assert (part.device, part.run, part.round) == (DEVICE, RUN, number)
            if part.chunk is None:
                manifests += 1
                announced = messages.decode(message.payload, messages.Manifest)
                assembly = assembly or Assembly(announced, 1_000_000)
                assert assembly.manifest == announced
                if manifests > 1:
                    need = messages.Need(run=RUN, round=number, missing=assembly.missing)
                    await self._client.publish(topics.need(DEVICE), messages.encode(need), qos=1)
            elif part.chunk in lose:
                lose.remove(part.chunk)
            else:
                assembly.add(part.chunk, message.payload)
        assert not lose
        return assembly.payload(), assembly.manifest.sha256

    async def send_receipt(self, number: int, digest: bytes, accepted: bool = True) -> None:
        receipt = messages.Receipt(run=RUN, round=number, sha256=digest, accepted=accepted)
        await self._client.publish(topics.receipt(DEVICE), messages.encode(receipt), qos=1)

    async def send_slice(self, content: messages.Slice) -> None:
        payload = messages.encode(content)
        manifest = manifest_of(payload, chunk_bytes=50_000)
        part = topics.Part(DEVICE, RUN, content.round, None)
        await self._client.publish(topics.slice_(part), messages.encode(manifest), qos=1)
        for index in reversed(range(manifest.chunk_count)):
            topic = topics.slice_(part._replace(chunk=index))
            await self._client.publish(topic, chunk(payload, manifest, index), qos=1)


@asynccontextmanager
async def scripted_server(port: int):
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.subscribe([(topics.UPLINK_FILTER, 1), (topics.STATE_FILTER, 1)])
        yield ScriptedServer(client)


@dataclass(frozen=True)
class Scene:
    """A bundle on disk and its initial model, a device's examples, and the pages that a server would serve."""

    bundle_dir: Path
    bundle: str
    layout: Layout
    weights: dict[str, np.ndarray]
    model: str
    examples: Examples
    pages: dict[str, bytes]

    def plan(self, number: int, model: str, precision: str) -> messages.RoundPlan:
        return messages.RoundPlan(
            run=RUN, round=number, resync_round=1, model_version=number - 1, bundle=self.bundle, model=model,
            deadline=time.time() + 600, local_steps=2, batch_size=64, learning_rate=0.1, keep=0.5, precision=precision,
            downlink="float32",
        )  # fmt: skip

    def assert_trained(self, update: messages.Update, plan: messages.RoundPlan, sub_model: SubModel, base) -> None:
        """Train again here, where nothing is random as a batch is the whole data, and compare."""
        work = LocalWork(plan, self.layout, self.examples, np.random.default_rng(0))
        runtime = PortableRuntime.open(self.bundle_dir, self.layout, 1)
        expected = train_update(work, Choice(sub_model), base, runtime).update
        shapes = sub_shapes(self.layout, sub_model.widths)
        found = decode(update.values, shapes, update.codec)
        for name, values in decode(expected.values, shapes, plan.codec).items():
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-6, err_msg=name)
        assert (update.model_version, update.examples, update.trained) == (plan.model_version, 40, 80)
        assert update.loss == pytest.approx(expected.loss, rel=1e-5)


@pytest.fixture
def scene(tmp_path) -> Scene:
    folder = tmp_path / "bundle"
    torch.manual_seed(3)
    layers = [torch.nn.Linear(64, 512), torch.nn.ReLU(), torch.nn.Linear(512, 256), torch.nn.ReLU()]
    manifest = export_bundle(torch.nn.Sequential(*layers, torch.nn.Linear(256, 10)), (64,), folder, name="mlp")
    bundle = bundle_id((folder / MANIFEST_NAME).read_bytes())
    names = (*manifest.files, MANIFEST_NAME)
    pages = {f"/api/v1/bundles/{bundle}/{name}": (folder / name).read_bytes() for name in names}
    weights = load_file(folder / WEIGHTS)
    content = encode(
        weights, sub_shapes(manifest.layout, manifest.layout.group_sizes), Codec("float32"), compress=False
    )
    model = sha256(content).hexdigest()
    pages[f"/api/v1/models/{model}"] = content
    generator = np.random.default_rng(0)
    examples = Examples(generator.random((40, 64), dtype=np.float32), generator.integers(0, 10, 40))
    np.savez(tmp_path / "examples.npz", x=examples.x, y=examples.y)
    return Scene(folder, bundle, manifest.layout, weights, model, examples, pages)


@asynccontextmanager
async def running(config: DeviceConfig):
    device = asyncio.create_task(run_device(config))
    try:
        yield device
    finally:
        device.cancel()
        await asyncio.gather(device, return_exceptions=True)


async def test_two_rounds_with_a_lost_chunk_and_a_slice(tmp_path, scene):
    with broker(tmp_path) as port, web_server(scene.pages) as (url, asked):
        address = BrokerUrl("127.0.0.1", port)
        config = DeviceConfig(DEVICE, address, url, tmp_path / "examples.npz", tmp_path / "state", run=RUN)
        async with scripted_server(port) as server, running(config) as device:
            birth = await server.state()
            assert (birth.online, birth.examples) == (True, 40)

            chosen = await first_round(server, scene)
            await second_round(server, scene, chosen)

            device.cancel()
            assert not (await server.state()).online
    wanted = {"manifest.json", "train_step.onnx", "fisher.onnx", scene.model}
    assert Counter({path.rsplit("/", 1)[1]: count for path, count in asked.items()}) == Counter(wanted)


async def first_round(server: ScriptedServer, scene: Scene) -> SubModel:
    """The whole model by HTTP; one chunk of the update gets lost."""
    plan = scene.plan(1, scene.model, "float32")
    await server.publish_plan(plan)
    update, digest = await server.update(1, lose={1})
    chosen = from_bitmaps(scene.layout, update.kept)
    assert chosen.widths == {name: size // 2 for name, size in scene.layout.group_sizes.items()}
    assert update.scored == 40
    scene.assert_trained(update, plan, chosen, gather(scene.layout, chosen, scene.weights))
    await server.send_receipt(1, digest)
    return chosen


async def second_round(server: ScriptedServer, scene: Scene, chosen: SubModel) -> None:
    """Values of the chosen neurons by MQTT; there is no model to fetch."""
    plan = scene.plan(2, "1" * 64, "float16")
    base = {name: values + np.float32(0.01) for name, values in gather(scene.layout, chosen, scene.weights).items()}
    values = encode(base, sub_shapes(scene.layout, chosen.widths), Codec("float32"))
    await server.publish_plan(plan)
    await server.send_slice(messages.Slice(run=RUN, round=2, model_version=1, precision="float32", values=values))
    update, digest = await server.update(2, lose=set())
    assert (update.kept, update.selection) == ({}, selection_id(scene.layout, chosen))
    assert update.scored == 0
    scene.assert_trained(update, plan, chosen, base)
    await server.send_receipt(2, digest)


async def test_a_device_whose_training_diverges_says_so_and_takes_part_again(tmp_path, scene):
    with broker(tmp_path) as port, web_server(scene.pages) as (url, _):
        address = BrokerUrl("127.0.0.1", port)
        config = DeviceConfig(DEVICE, address, url, tmp_path / "examples.npz", tmp_path / "state", run=RUN)
        async with scripted_server(port) as server, running(config):
            assert (await server.state()).online
            await server.publish_plan(replace(scene.plan(1, scene.model, "float32"), learning_rate=1e30))
            payload, digest = await server.payload(1, lose=set())
            assert messages.decode(payload, messages.Decline).cause == "training"
            await server.send_receipt(1, digest, accepted=False)
            await server.publish_plan(scene.plan(2, scene.model, "float32"))
            update, _ = await server.update(2, lose=set())
            assert update.scored == 40


async def test_a_device_whose_examples_do_not_fit_says_only_that(tmp_path, scene):
    np.savez(tmp_path / "examples.npz", x=scene.examples.x[:, :-1], y=scene.examples.y)
    with broker(tmp_path) as port, web_server(scene.pages) as (url, _):
        address = BrokerUrl("127.0.0.1", port)
        config = DeviceConfig(DEVICE, address, url, tmp_path / "examples.npz", tmp_path / "state", run=RUN)
        async with scripted_server(port) as server, running(config):
            assert (await server.state()).online
            await server.publish_plan(scene.plan(1, scene.model, "float32"))
            payload, _ = await server.payload(1, lose=set())
    assert messages.decode(payload, messages.Decline) == messages.Decline(run=RUN, round=1, cause="data")


async def test_a_newer_plan_ends_the_training_at_hand(tmp_path, scene):
    with broker(tmp_path) as port, web_server(scene.pages) as (url, _):
        address = BrokerUrl("127.0.0.1", port)
        config = DeviceConfig(DEVICE, address, url, tmp_path / "examples.npz", tmp_path / "state", run=RUN)
        async with scripted_server(port) as server, running(config):
            assert (await server.state()).online
            await server.publish_plan(replace(scene.plan(1, scene.model, "float32"), local_steps=10**9))
            while not (tmp_path / "state" / "models" / scene.model).exists():
                await asyncio.sleep(0.01)
            await server.publish_plan(replace(scene.plan(2, scene.model, "float32"), resync_round=2))
            update, _ = await server.update(2, lose=set())
            assert update.trained == 80
