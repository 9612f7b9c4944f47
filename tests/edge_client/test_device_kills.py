"""A device's process killed with SIGKILL at many moments of many rounds, on a real broker."""

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace

from tests.edge_client.scripted_server import (
    DEVICE,
    PATIENCE,
    RUN,
    ScriptedServer,
    broker,
    make_scene,
    needs_mosquitto,
    scripted_server,
    web_server,
)
from tests.fleet_keys import open_update
from wire_protocol import messages, topics
from wire_protocol.chunking import Assembly

pytestmark = needs_mosquitto

ROUNDS = 9
KILLS_PER_ROUND = 2
MOMENTS = ("any", "training", "writing", "manifest", "chunk", "receipt", "receipt and a moment")


@dataclass
class CountingServer:
    """Answers as a server does, counts each round once, and says what it has seen happen."""

    server: ScriptedServer
    hashes: dict[int, set[bytes]] = field(default_factory=dict)
    counted: dict[int, messages.Update] = field(default_factory=dict)
    receipts_lost: int = 0
    happened: asyncio.Queue = field(default_factory=asyncio.Queue)

    async def serve(self, chance: random.Random) -> None:
        assemblies: dict[int, Assembly] = {}
        while True:
            message = await anext(self.server._messages)
            if not str(message.topic).startswith(f"{topics.ROOT}/up/"):
                continue
            part = topics.parse_part(str(message.topic))
            if part.chunk is None:
                manifest = messages.decode(message.payload, messages.Manifest)
                self.hashes.setdefault(part.round, set()).add(manifest.sha256)
                assembly = assemblies.setdefault(part.round, Assembly(manifest, 10_000_000))
                self.happened.put_nowait("manifest")
                if part.round in self.counted:
                    await self.server.send_receipt(part.round, manifest.sha256)
                    self.happened.put_nowait("receipt")
                else:
                    await self.server.send_need(part.round, assembly.missing)
                continue
            assembly = assemblies[part.round]
            assembly.add(part.chunk, message.payload)
            self.happened.put_nowait("chunk")
            if assembly.complete and part.round not in self.counted:
                body = open_update(assembly.payload(), RUN, part.round, DEVICE)
                self.counted[part.round] = messages.decode(body, messages.Update)
                if chance.random() < 0.3:
                    self.receipts_lost += 1
                else:
                    await self.server.send_receipt(part.round, assembly.manifest.sha256)
                    self.happened.put_nowait("receipt")


async def until(condition: Callable[[], bool]) -> None:
    async def poll() -> None:
        while not condition():
            await asyncio.sleep(0.001)

    await asyncio.wait_for(poll(), PATIENCE)


async def kill_at(moment: str, process, folder, counting: CountingServer, chance: random.Random) -> bool:
    """Kill the device when this happens, or after three seconds when it does not; whether it did."""
    log, before = folder / "device.log", (folder / "device.log").stat().st_size
    outbox = folder / "state" / "outbox"

    async def wait_for_it() -> None:
        if moment == "any":
            await asyncio.sleep(chance.uniform(0.0, 2.0))
        elif moment == "training":
            await until(lambda: b": plan: " in log.read_bytes()[before:])
            await asyncio.sleep(chance.uniform(0.0, 0.1))
        elif moment == "writing":
            await until(lambda: any(outbox.glob("*.new")))
        else:
            while await counting.happened.get() != moment.split(maxsplit=1)[0]:
                pass
            await asyncio.sleep(0.03 * chance.random() if "moment" in moment else 0)

    done, _ = await asyncio.wait([asyncio.create_task(wait_for_it())], timeout=3.0)
    process.send_signal(signal.SIGKILL)
    await process.wait()
    return bool(done)


async def test_a_device_killed_at_any_moment_sends_each_round_once_and_loses_none(tmp_path):
    scene = make_scene(tmp_path, hidden=(256, 512))
    chance = random.Random(4)
    killed: Counter[str] = Counter()
    state = tmp_path / "state"
    with broker(tmp_path) as port, web_server(scene.pages) as (url, _):
        config = tmp_path / "device.toml"
        table = {"device": DEVICE, "broker": f"mqtt://127.0.0.1:{port}", "server": url, "data": "examples.npz"}
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()) + "seed = 1\n")
        command = (sys.executable, "-m", "edge_client", "--config", str(config))
        async with scripted_server(port) as server:
            counting = CountingServer(server)
            serving = asyncio.create_task(counting.serve(chance))
            for number in range(1, ROUNDS + 1):
                plan = scene.plan(number, scene.model, "float32")
                await server.publish_plan(replace(plan, resync_round=number, local_steps=20, batch_size=40))
                log = (tmp_path / "device.log").open("ab")
                for attempt in range(KILLS_PER_ROUND):
                    moment = MOMENTS[(number * KILLS_PER_ROUND + attempt) % len(MOMENTS)]
                    counting.happened = asyncio.Queue()
                    process = await asyncio.create_subprocess_exec(*command, stderr=log)
                    killed[moment] += await kill_at(moment, process, tmp_path, counting, chance)
                process = await asyncio.create_subprocess_exec(*command, stderr=log)
                await until(lambda number=number: number in counting.counted and not any(state.glob("outbox/*")))
                process.send_signal(signal.SIGKILL)
                await process.wait()
                log.close()
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
    sure = [moment for moment in MOMENTS if moment != "writing"]  # too short to hit each time; test_device_store does
    assert min(killed[moment] for moment in sure) > 0, killed
    assert "Traceback" not in (tmp_path / "device.log").read_text()
    assert {number: len(hashes) for number, hashes in counting.hashes.items()} == dict.fromkeys(range(1, ROUNDS + 1), 1)
    assert sorted(counting.counted) == list(range(1, ROUNDS + 1))
    assert counting.receipts_lost > 0
    for number, update in counting.counted.items():
        assert (update.run, update.round) == (RUN, number)


@pytest.mark.parametrize("count", [1, 3])
async def test_what_waits_at_a_kill_is_announced_after_it_without_training_again(tmp_path, count):
    scene = make_scene(tmp_path, hidden=(32, 16))
    with broker(tmp_path) as port, web_server(scene.pages) as (url, asked):
        config = tmp_path / "device.toml"
        table = {"device": DEVICE, "broker": f"mqtt://127.0.0.1:{port}", "server": url, "data": "examples.npz"}
        config.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items()))
        command = (sys.executable, "-m", "edge_client", "--config", str(config))
        async with scripted_server(port) as server:
            first = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            sent = {}
            for number in range(1, count + 1):
                await server.publish_plan(replace(scene.plan(number, scene.model, "float32"), resync_round=number))
                _, manifest = await server.manifest(number)
                sent[number] = manifest.sha256
            first.kill()
            await first.wait()
            asked.clear()
            second = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            while not (await server.state()).online:
                pass
            announced = [await server.manifest() for _ in range(count)]
            assert [part.round for part, _ in announced] == sorted(sent, reverse=True)
            assert {part.round: manifest.sha256 for part, manifest in announced} == sent
            for number, first_digest in sent.items():
                update, digest = await server.update(number)
                assert (update.round, digest) == (number, first_digest)
                await server.send_receipt(number, digest)
            await until(lambda: not any((tmp_path / "state" / "outbox").iterdir()))
            second.kill()
            await second.wait()
            third = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.DEVNULL)
            while not (await server.state()).online:
                pass
            with pytest.raises(asyncio.TimeoutError):
                await asyncio.wait_for(server.manifest(), 2.0)
            third.kill()
            await third.wait()
    assert not asked
