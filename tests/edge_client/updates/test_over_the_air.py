"""A device process, started by the launcher again and again, on a real broker: it updates itself, and goes back."""

import asyncio
import json
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import onnx

import edge_client
import wire_protocol
from devices.releases.archive import pack
from edge_client.__main__ import EXIT_AGAIN
from edge_client.updates.choice import MOST_STARTS, Choice, load_choice
from tests.edge_client.scripted_server import (
    DEVICE,
    PATIENCE,
    RUN,
    Scene,
    ScriptedServer,
    broker,
    make_scene,
    needs_mosquitto,
    scripted_server,
    web_server,
)
from tests.edge_client.updates.release_trees import release_of, signed_release
from tests.fleet_keys import FLEET, device, signed, signed_for
from wire_protocol import messages, topics
from wire_protocol.envelope import Context, verify
from wire_protocol.releases import ModelOffer, ReleaseOffer, ReleaseReport

pytestmark = needs_mosquitto

START = "import sys; sys.path.insert(0, {own!r}); from edge_client.updates.launch import main; sys.exit(main())"


def tree(folder: Path, version: str, **changed: str) -> Path:
    """The client of this Fisherfleet as a package, with some files in place of its own, that takes no time to prove."""
    for package in (edge_client, wire_protocol):
        (source,) = package.__path__
        shutil.copytree(source, folder / package.__name__, ignore=shutil.ignore_patterns("__pycache__"))
    machine = folder / "edge_client" / "updates" / "update_state.py"
    machine.write_text(machine.read_text().replace("PROOF_SECONDS = 600.0", "PROOF_SECONDS = 0.0"))
    for name, text in changed.items():
        (folder / "edge_client" / f"{name}.py").write_text(text)
    metadata = folder / f"fisherfleet-{version}.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: fisherfleet\nVersion: {version}\n")
    return folder


@dataclass
class Bench:
    """The operator's end and the place of one device."""

    folder: Path
    scene: Scene
    server: ScriptedServer

    async def offer(self, version: str, attempt: int = 1, **changed: str) -> None:
        packed = pack(tree(self.folder / f"tree-{version}", version, **changed))
        release = release_of(packed.content, version, packed.unpacked)
        self.scene.pages[f"/api/v1/releases/{release.sha256}"] = packed.content
        offer = ReleaseOffer(releases=(signed_release(release),), attempt=attempt, expires=time.time() + 3600)
        await self.publish(topics.release(DEVICE), signed_for("release-offer", offer, DEVICE))

    async def publish(self, topic: str, payload: bytes) -> None:
        await self.server.publish(topic, payload, retain=True)

    async def report(self, status: str) -> ReleaseReport:
        """The next report that says so."""
        while True:
            message = await self.server.next()
            if str(message.topic) == topics.report(DEVICE):
                body = verify(message.payload, Context("report", FLEET, device=DEVICE), [device(DEVICE).public])
                report = messages.decode(body, ReleaseReport)
                if report.status == status:
                    return report

    @asynccontextmanager
    async def started(self):
        """A process that the launcher runs."""
        command = (sys.executable, "-c", START.format(own=str(self.folder / "own")), "--config", "device.toml")
        with (self.folder / "device.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(*command, cwd=self.folder, stderr=log)
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
            await process.wait()

    async def end_of_a_start(self) -> int:
        async with self.started() as process:
            return await asyncio.wait_for(process.wait(), PATIENCE)

    @property
    def choice(self) -> Choice:
        return load_choice(self.folder / "releases")

    @property
    def log(self) -> str:
        return (self.folder / "device.log").read_text()


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.01)

    await asyncio.wait_for(poll(), PATIENCE)


@asynccontextmanager
async def bench(folder: Path):
    scene = make_scene(folder, hidden=(32, 16))
    with broker(folder) as port, web_server(scene.pages) as (url, _):
        table = {"device": DEVICE, "broker": f"mqtt://127.0.0.1:{port}", "server": url, "data": "examples.npz"}
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        (folder / "device.toml").write_text("\n".join([*lines, "[updates]", "client = true", "models = true", ""]))
        tree(folder / "own", "0.1.0")
        async with scripted_server(port) as server:
            yield Bench(folder, scene, server)


async def test_a_device_updates_itself_between_rounds_and_a_bad_release_is_left_for_the_last_good_one(tmp_path):
    async with bench(tmp_path) as at:
        await at.offer("0.2.0")
        assert await at.end_of_a_start() == EXIT_AGAIN
        assert at.choice == Choice(trial="0.2.0", attempt=1)
        async with at.started():
            report = await at.report("trial")
            assert (report.version, report.offered) == ("0.2.0", "0.2.0")
            assert (await at.report("confirmed")).version == "0.2.0"
            await at.server.publish_plan(at.scene.plan(1, at.scene.model, "float32"))
            await at.server.update(1)
        assert at.choice == Choice("0.2.0", 1)
        await at.offer("0.3.0", runner="from edge_client.no_such import x\n")
        assert await at.end_of_a_start() == EXIT_AGAIN
        async with at.started():
            report = await at.report("failed")
            assert (report.version, report.offered, report.attempt) == ("0.2.0", "0.3.0", 1)
            await until(lambda: at.choice == Choice("0.2.0", 1, failed={"0.3.0": 1}))
            await until(lambda: {path.name for path in (tmp_path / "releases").iterdir()} == {"choice", "0.2.0"})
        assert "release 0.3.0 cannot be loaded" in at.log


async def test_a_release_that_ends_at_every_start_is_started_three_times(tmp_path):
    async with bench(tmp_path) as at:
        main = (tmp_path / "own" / "edge_client" / "__main__.py").read_text()
        await at.offer("0.2.0", __main__=main.replace("def main(", "def main(*_):\n    return 9\n\n\ndef old("))
        assert await at.end_of_a_start() == EXIT_AGAIN
        assert [await at.end_of_a_start() for _ in range(MOST_STARTS)] == [9] * MOST_STARTS
        async with at.started():
            report = await at.report("failed")
            assert report.reason == "it did not prove itself in 3 starts; 0.1.0 runs again"
        async with at.started():
            assert (await at.report("failed")).version == "0.1.0"


async def test_a_promoted_model_is_kept_beside_the_one_before_if_it_can_be_loaded(tmp_path):
    async with bench(tmp_path) as at:
        folder = tmp_path / "state" / "promoted" / RUN
        first = at.scene.pages[f"/api/v1/bundles/{at.scene.bundle}/predict.onnx"]
        model = onnx.load_from_string(first)
        model.doc_string = "another"
        second = model.SerializeToString()

        async def promote(content: bytes, version: int, promotion: int) -> None:
            digest = sha256(content).hexdigest()
            at.scene.pages[f"/api/v1/promoted/{digest}"] = content
            offer = ModelOffer(run=RUN, version=version, promotion=promotion, sha256=digest, size=len(content))
            await at.publish(topics.model(RUN), signed(offer, Context("model", FLEET, RUN)))

        async with at.started():
            assert (await at.report("none")).models == {}
            for version, content in ((3, first), (5, second)):
                await promote(content, version, version)
                while (await at.report("none")).models != {RUN: version}:
                    pass
            await promote(b"no graph", 6, 6)
            await promote(first, 3, 4)
            await until(lambda: "stays out" in at.log)
        assert (folder / "predict.onnx").read_bytes() == second
        assert (folder / "previous.onnx").read_bytes() == first
        async with at.started():
            assert (await at.report("none")).models == {RUN: 5}
