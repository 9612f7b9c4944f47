"""The server's post and a device's courier, wired together in memory: what goes wrong on the way harms nothing."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from hashlib import sha256
from pathlib import Path
from threading import Event
from types import SimpleNamespace

import pytest

from edge_client import file_transfer
from edge_client.courier import Courier as DeviceCourier
from edge_client.credentials import Credentials
from edge_client.errors import BundleError, SpoiltError, UnreachableError
from edge_client.http_download import Wanted
from server.cancellation import end_tasks
from server.content_files import ContentFiles
from server.courier import Courier
from server.file_post import FilePost, Office
from server.model_files import ModelFiles
from server.operator_keys import Operator
from server.registry import Enrolled, Registry, encode_registry
from server.sealed_files import SealedFiles
from server.shelf import Offered, Shelf
from server.traffic import Traffic
from tests.fleet_keys import FLEET, device, fleet, operator, signed
from wire_protocol import topics
from wire_protocol.envelope import Context
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import Want

CHUNK = 1000
CONTENT = bytes(range(256)) * 200
DIGEST = sha256(CONTENT).hexdigest()
PATH = f"models/{DIGEST}"
DIFFERENCE = CONTENT[::-1]
Wire = Callable[[str, bytes], bytes | None]


class Bench:
    """A server's post; `wire` is what lies between it and the devices, and may alter or lose what it is given."""

    def __init__(self, folder: Path, names: tuple[str, ...] = ("a",)) -> None:
        self.folder = folder
        self.now = 0.0
        self.wire: Wire = lambda topic, payload: payload
        self.sent: Counter[str] = Counter()
        self.devices: dict[str, DeviceCourier] = {}
        self.enrol(*names)
        models = ModelFiles(folder / "server", "run")
        models.encoded.publish(CONTENT)
        models.differences.publish(DIFFERENCE)
        bundle = SimpleNamespace(id="0" * 64, file=lambda name: None)
        office = Office(Operator(FLEET, (operator(),)), Registry.load(folder / "devices.json"), Traffic(), self.publish)
        self.sealed = SealedFiles(folder / "server" / "courier", lambda: self.now)
        self.releases = ContentFiles(folder / "server" / "releases", 1)
        promoted = ContentFiles(folder / "server" / "promoted", 1)
        shelf = Shelf(lambda: [Offered(bundle, models)], self.releases, promoted)  # type: ignore[arg-type]
        self.post = FilePost(office, shelf, self.sealed, CHUNK, Courier(CHUNK, lambda: self.now))

    def enrol(self, *names: str, revoked: bool = False) -> None:
        entries = {name: Enrolled((device(name).public,), revoked) for name in names}
        (self.folder / "fresh").write_bytes(encode_registry(entries))
        (self.folder / "fresh").replace(self.folder / "devices.json")

    async def publish(self, topic: str, payload: bytes) -> bool:
        await asyncio.sleep(0)
        part = topics.parse_file(topic)
        self.sent["manifest" if part.chunk is None else "chunk"] += 1
        passed = self.wire(topic, payload)
        if passed is not None and part.device in self.devices:
            self.devices[part.device].piece_arrived(topic, passed)
        return True

    def start_device(self, name: str = "a") -> DeviceCourier:
        async def ask(topic: str, payload: bytes) -> None:
            self.post.on_want(topics.parse_want(topic), payload)

        self.devices[name] = DeviceCourier(Credentials(name, fleet(), (device(name),)), ask)
        return self.devices[name]

    def wanted(self) -> Wanted:
        target = self.folder / "state" / DIGEST
        return Wanted("http://nowhere", target, DIGEST, len(CONTENT), path=PATH)

    async def fetch(self, courier: DeviceCourier, stop: Event | None = None, wanted: Wanted | None = None) -> None:
        posting = asyncio.create_task(self.post.run())
        try:
            fetching = asyncio.to_thread(courier.fetch, wanted or self.wanted(), stop or Event())
            await asyncio.wait_for(fetching, 60)
        finally:
            await end_tasks([posting])

    @property
    def here(self) -> list[str]:
        return sorted(path.name for path in (self.folder / "state").iterdir())

    def begun(self) -> int:
        """Chunks of the sealed payload."""
        return -(-self.sealed.bytes_kept // CHUNK)


async def test_a_file_comes_whole_and_leaves_no_rest(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.fetch(bench.start_device())
    assert bench.wanted().target.read_bytes() == CONTENT
    assert bench.here == [DIGEST]
    assert bench.sent == {"manifest": 1, "chunk": bench.begun()}


async def test_a_difference_of_models_comes_by_a_path_of_its_own(tmp_path: Path) -> None:
    bench, digest = Bench(tmp_path), sha256(DIFFERENCE).hexdigest()
    target = tmp_path / "state" / digest
    wanted = Wanted("http://nowhere", target, digest, len(DIFFERENCE), path=f"differences/{digest}")
    await bench.fetch(bench.start_device(), wanted=wanted)
    assert target.read_bytes() == DIFFERENCE


async def test_a_transfer_cut_and_killed_in_the_middle_goes_on_where_it_stopped(tmp_path: Path) -> None:
    bench, stop = Bench(tmp_path), Event()

    def cut(topic: str, payload: bytes) -> bytes | None:
        if bench.sent["chunk"] > 20:
            stop.set()
            return None
        return payload

    bench.wire = cut
    with pytest.raises(BundleError, match="was stopped"):
        await bench.fetch(bench.start_device(), stop)
    assert bench.here == [f"{DIGEST}.sealed"]
    bench.wire = lambda topic, payload: payload
    bench.sent.clear()
    await bench.fetch(bench.start_device())
    assert bench.wanted().target.read_bytes() == CONTENT
    assert set(bench.sent) == {"chunk"}
    assert bench.begun() - 20 <= bench.sent["chunk"] < bench.begun()  # more than needed where it asks again too soon


async def test_a_restarted_server_goes_on_with_the_same_payload(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    await bench.fetch(bench.start_device())
    (before,) = bench.sealed._used
    again = SealedFiles(tmp_path / "server" / "courier", lambda: 0.0)
    assert again.find("a", before.subject) == before
    assert again.chunk(before, 3) == bench.sealed.chunk(before, 3)


@pytest.mark.parametrize("spoil", [lambda payload: b"\xff" + payload[1:], lambda payload: payload + b"?"])
async def test_an_altered_chunk_is_refused_and_sent_again(tmp_path: Path, spoil: Callable[[bytes], bytes]) -> None:
    bench, altered = Bench(tmp_path), []

    def alter(topic: str, payload: bytes) -> bytes:
        if topic.endswith("/7") and not altered:
            altered.append(topic)
            return spoil(payload)
        return payload

    bench.wire = alter
    await bench.fetch(bench.start_device())
    assert altered
    assert bench.wanted().target.read_bytes() == CONTENT
    assert bench.sent["chunk"] > bench.begun()


async def test_a_file_that_is_always_altered_is_given_up_and_never_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.wire = lambda topic, payload: bytes(len(payload)) if topic.endswith("/7") else payload
    with pytest.raises(SpoiltError, match="what comes is not that file"):
        await bench.fetch(bench.start_device())
    assert not bench.wanted().target.exists()


async def test_a_server_that_gives_no_answer_may_give_one_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_transfer, "PATIENCE_SECONDS", 0.0)
    bench = Bench(tmp_path)
    bench.wire = lambda topic, payload: None
    with pytest.raises(UnreachableError, match="no answer"):
        await bench.fetch(bench.start_device())


def ask(name: str, signer: str, path: str = PATH) -> bytes:
    return signed(Want(path=path), Context("want", FLEET, device=name), device(signer))


async def answered(bench: Bench) -> Counter[str]:
    posting = asyncio.create_task(bench.post.run())
    for _ in range(200):
        await asyncio.sleep(0.001)
    await end_tasks([posting])
    return bench.sent


async def test_strangers_impostors_and_the_revoked_get_nothing(tmp_path: Path) -> None:
    bench = Bench(tmp_path, ("a", "b"))
    for name, signer in (("c", "c"), ("a", "b"), ("a", "c")):
        with pytest.raises(ProtocolError, match="no valid signature"):
            bench.post.on_want(name, ask(name, signer))
    bench.post.on_want("a", ask("a", "a"))
    bench.enrol("a", "b", revoked=True)
    with pytest.raises(ProtocolError, match="no valid signature"):
        bench.post.on_want("b", ask("b", "b"))
    assert not await answered(bench)


@pytest.mark.parametrize(
    "path", [f"models/{'1' * 64}", f"differences/{DIGEST}", f"bundles/{'0' * 64}/weights.bin", f"bundles/{'1' * 64}/x"]
)
async def test_other_files_are_not_served(tmp_path: Path, path: str) -> None:
    bench = Bench(tmp_path)
    bench.post.on_want("a", ask("a", "a", path))
    assert not await answered(bench)


async def test_few_pieces_are_in_memory_however_many_devices_ask(tmp_path: Path) -> None:
    names = tuple(f"d{number}" for number in range(40))
    bench = Bench(tmp_path, names)
    under_way, most, finished = 0, 0, asyncio.Event()
    calls = 0

    async def publish(topic: str, payload: bytes) -> bool:
        nonlocal under_way, most, calls
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        calls += 1
        if calls == len(names):
            finished.set()
        return True

    office: Callable[..., Awaitable[bool]] = publish
    object.__setattr__(bench.post._office, "publish", office)
    for name in names:
        bench.post.on_want(name, ask(name, name))
    posting = asyncio.create_task(bench.post.run())
    await asyncio.wait_for(finished.wait(), 60)
    await end_tasks([posting])
    assert most <= 4
    assert bench.sealed.bytes_kept <= len(names) * (len(CONTENT) + 400)
