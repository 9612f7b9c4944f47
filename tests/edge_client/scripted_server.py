"""A broker, a web server and a server's end of the wire for tests of whole devices, and a scene for them to act in."""

import asyncio
import shutil
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, replace
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import aiomqtt
import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from edge_client.config import DeviceConfig
from edge_client.local_update import Choice, LocalWork, train_update
from edge_client.runner import run_device
from edge_client.training.choose import OpenRuntime, open_runtime
from edge_client.training.portable import PortableRuntime
from model_export.export import export_bundle
from tests.fleet_keys import open_update, sealed_slice, signed_for, signed_plan, write_identity
from wire_protocol import messages, topics
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.bundle_manifest import MANIFEST_NAME, WEIGHTS, bundle_id
from wire_protocol.chunking import Assembly, chunk, manifest_of
from wire_protocol.device_state import DeviceState
from wire_protocol.examples import Examples
from wire_protocol.layout import Layout
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.sub_model import SubModel, sub_shapes
from wire_protocol.tensor_codec import Codec, decode, encode

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
RUN, DEVICE = "digits", "pi-1"
PATIENCE = 60

needs_mosquitto = pytest.mark.skipif(MOSQUITTO is None, reason="mosquitto is not installed")


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
    """The server's end of the wire, one step at a time; it signs, seals and opens as the operator."""

    def __init__(self, client: aiomqtt.Client) -> None:
        self._client = client
        self._messages = client.messages

    async def next(self) -> aiomqtt.Message:
        return await asyncio.wait_for(anext(self._messages), PATIENCE)

    async def state(self) -> DeviceState:
        while True:
            message = await self.next()
            if str(message.topic) == topics.state(DEVICE):
                return messages.decode(message.payload, DeviceState)

    async def publish_plan(self, plan: messages.RoundPlan) -> None:
        await self._client.publish(topics.plan(plan.run), signed_plan(plan), qos=1, retain=True)

    async def publish(self, topic: str, payload: bytes, retain: bool = False) -> None:
        await self._client.publish(topic, payload, qos=1, retain=retain)

    async def update(self, number: int, lose: set[int] | None = None) -> tuple[messages.Update, bytes]:
        """The update of a round, losing the chunks in `lose` the first time they come."""
        payload, digest = await self.payload(number, lose)
        return messages.decode(payload, messages.Update), digest

    async def manifest(self, number: int | None = None) -> tuple[topics.Part, messages.Manifest]:
        """The next announcement, of a round or of any."""
        while True:
            message = await self.next()
            if not str(message.topic).endswith(topics.MANIFEST):
                continue
            part = topics.parse_part(str(message.topic))
            if number in (None, part.round):
                return part, messages.decode(message.payload, messages.Manifest)

    async def payload(self, number: int, lose: set[int] | None = None) -> tuple[bytes, bytes]:
        """Put together what the device sends in a round when asked for it; what it says, and the hash of it sealed."""
        lose = lose or set()
        assembly = None
        while assembly is None or assembly.missing:
            message = await self.next()
            if not str(message.topic).startswith(f"{topics.ROOT}/up/"):
                continue
            part = topics.parse_part(str(message.topic))
            assert part.device == DEVICE
            if part.round != number:
                continue
            if part.chunk is None:
                announced = messages.decode(message.payload, messages.Manifest)
                assembly = assembly or Assembly(announced, 10_000_000)
                assert assembly.manifest == announced
                await self.send_need(number, assembly.missing)
            elif part.chunk in lose:
                lose.remove(part.chunk)
            else:
                assert assembly is not None, "a chunk nobody asked for"
                assembly.add(part.chunk, message.payload)
        assert not lose
        return open_update(assembly.payload(), RUN, number, DEVICE), assembly.manifest.sha256

    async def send_need(self, number: int, missing: tuple[int, ...]) -> None:
        need = messages.Need(run=RUN, round=number, missing=missing)
        await self._client.publish(topics.need(DEVICE), signed_for("need", need, DEVICE), qos=1)

    async def send_receipt(
        self, number: int, digest: bytes, accepted: bool = True, ledger: LedgerMark | None = None
    ) -> None:
        receipt = messages.Receipt(run=RUN, round=number, sha256=digest, accepted=accepted, ledger=ledger)
        await self._client.publish(topics.receipt(DEVICE), signed_for("receipt", receipt, DEVICE), qos=1)

    async def send_slice(self, content: messages.Slice) -> None:
        payload = sealed_slice(content, DEVICE)
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
        runtime = PortableRuntime.open(self.bundle_dir, self.layout)
        expected = train_update(work, Choice(sub_model), base, runtime).update
        shapes = sub_shapes(self.layout, sub_model.widths)
        found = decode(update.values, shapes, update.codec)
        for name, values in decode(expected.values, shapes, plan.codec).items():
            np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-6, err_msg=name)
        assert (update.model_version, update.examples, update.trained) == (plan.model_version, 40, 80)


def make_scene(tmp_path: Path, hidden: tuple[int, int] = (512, 256)) -> Scene:
    """Export a small model and write a device's examples and identity to `tmp_path`."""
    folder = tmp_path / "bundle"
    torch.manual_seed(3)
    first, second = hidden
    layers = [torch.nn.Linear(64, first), torch.nn.ReLU(), torch.nn.Linear(first, second), torch.nn.ReLU()]
    manifest = export_bundle(torch.nn.Sequential(*layers, torch.nn.Linear(second, 10)), (64,), folder, name="mlp")
    bundle = bundle_id((folder / MANIFEST_NAME).read_bytes())
    names = (*manifest.files, MANIFEST_NAME)
    pages = {f"/api/v1/bundles/{bundle}/{name}": (folder / name).read_bytes() for name in names}
    weights = load_file(folder / WEIGHTS)
    shapes = sub_shapes(manifest.layout, manifest.layout.group_sizes)
    content = encode(weights, shapes, Codec("float32"), compress=False)
    model = sha256(content).hexdigest()
    pages[f"/api/v1/models/{model}"] = content
    generator = np.random.default_rng(0)
    examples = Examples(generator.random((40, 64), dtype=np.float32), generator.integers(0, 10, 40))
    np.savez(tmp_path / "examples.npz", x=examples.x, y=examples.y)
    write_identity(tmp_path, DEVICE)
    return Scene(folder, bundle, manifest.layout, weights, model, examples, pages)


def device_config(folder: Path, port: int, url: str) -> DeviceConfig:
    """A device whose data, state and identity lie in `folder`."""
    broker = BrokerUrl("127.0.0.1", port)
    return DeviceConfig(
        DEVICE, broker, url, folder / "examples.npz", folder / "state", folder / "identity", run=RUN, seed=1
    )


@asynccontextmanager
async def surroundings(scene: Scene, folder: Path, **settings):
    """The server's end of the wire, the config of a device in `folder`, and how often pages were asked for."""
    with broker(folder) as port, web_server(scene.pages) as (url, asked):
        async with scripted_server(port) as server:
            yield server, replace(device_config(folder, port, url), **settings), asked


@asynccontextmanager
async def running(config: DeviceConfig, open_runtime: OpenRuntime = open_runtime):
    device = asyncio.create_task(run_device(config, open_runtime=open_runtime))
    try:
        yield device
    finally:
        device.cancel()
        await asyncio.gather(device, return_exceptions=True)
