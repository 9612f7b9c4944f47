"""Both cores of the uplink, a device's and the server's, over a link that drops, repeats, reorders and corrupts.

Whatever the seed: every payload is counted exactly once, by the server and by its device. Time is simulated, signatures
and seals are real. The link never gets better; devices and server are killed on the way.
"""

from __future__ import annotations

import heapq
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import given, settings
from hypothesis import strategies as st

from edge_client import delivery
from edge_client import delivery_events as ev
from edge_client.credentials import Credentials
from edge_client.delivery import Delivery
from edge_client.outbox import Parcel
from edge_client.round_events import Event, Tick
from server.partial_files import PartialFiles
from server.receipts import ReceiptBook
from server.uplink import Complete, Uplink
from tests import fleet_keys as keys
from wire_protocol import chunking, messages, topics
from wire_protocol.envelope import Context, sign
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import Manifest, Need, Receipt
from wire_protocol.topics import Part

RUN = "run"
LARGEST = 4000
LONGEST = 4 * 3600.0
"""Twenty minutes are the most that was seen."""


class World:
    """A clock, and what will happen when."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.now = 0.0
        self._numbers = count()
        self._later: list[tuple[float, int, Callable[[], None]]] = []

    def after(self, seconds: float, do: Callable[[], None]) -> None:
        heapq.heappush(self._later, (self.now + seconds, next(self._numbers), do))

    def run(self, until: Callable[[], bool]) -> None:
        while not until():
            self.now, _, do = heapq.heappop(self._later)
            assert self.now < LONGEST, "it goes on for ever"
            do()


@dataclass(frozen=True)
class Link:
    """Loses, repeats, delays and corrupts with these chances; a message passes from none to two times."""

    world: World
    weather: Weather

    def send(self, topic: str, content: bytes, receive: Callable[[str, bytes], None]) -> None:
        draw = self.world.draw
        for _ in range(2 if draw.random() < self.weather.repeated else 1):
            if draw.random() >= self.weather.lost:
                passed = self._corrupt(content) if draw.random() < self.weather.corrupted else content
                self.world.after(draw.random() * self.weather.slowest, lambda passed=passed: receive(topic, passed))

    def _corrupt(self, content: bytes) -> bytes:
        changed = bytearray(content)
        changed[self.world.draw.randrange(len(changed))] ^= 1 << self.world.draw.randrange(8)
        return bytes(changed[: len(changed) - (self.world.draw.random() < 0.2)])


@dataclass
class Device:
    """The core of `edge_client.delivery` with a link for a shell."""

    name: str
    link: Link
    server: Server
    stored: dict[Parcel, bytes] = field(default_factory=dict)
    settled: Counter[int] = field(default_factory=Counter)
    sealed: dict[int, bytes] = field(default_factory=dict)
    state: Delivery = field(default_factory=Delivery)
    life: int = 0

    def __post_init__(self) -> None:
        self.credentials = Credentials(self.name, keys.fleet(), (keys.device(self.name),))
        self.restart()

    def restart(self) -> None:
        """Whatever was in memory is gone; the outbox is what it was."""
        self.life += 1
        self.state = delivery.begin(tuple(self.stored))
        self._soon(1.0, ev.Connected)
        self._tick(self.life)

    def reconnect(self) -> None:
        self.take(ev.Disconnected(now=self.link.world.now))
        self._soon(20.0, ev.Connected)

    def give(self, number: int, body: bytes) -> None:
        payload = self.credentials.seal_update(RUN, number, body)
        self.sealed[number] = payload
        chunk_bytes = self.link.world.draw.choice((len(payload), 100, 301))
        parcel = Parcel(RUN, number, number, chunking.manifest_of(payload, chunk_bytes), None)
        self.stored[parcel] = payload
        self.take(ev.Added(now=self.link.world.now, parcel=parcel))

    def receive(self, topic: str, content: bytes) -> None:
        now = self.link.world.now
        try:
            if topic == topics.need(self.name):
                body = self.credentials.verify_need(content)
                self.take(ev.NeedArrived(now=now, need=messages.decode(body, Need)))
            else:
                body = self.credentials.verify_receipt(content)
                self.take(ev.ReceiptArrived(now=now, receipt=messages.decode(body, Receipt)))
        except ProtocolError:
            pass

    def take(self, event: Event) -> None:
        self.state, commands = delivery.advance(self.state, event)
        for command in commands:
            if isinstance(command, ev.Settle):
                assert command.receipt.accepted, command.receipt.reason
                self.settled[command.parcel.round] += 1
                del self.stored[command.parcel]
            else:
                self._transmit(command)

    def _transmit(self, command: ev.Announce | ev.SendChunks) -> None:
        parcel = command.parcel
        if isinstance(command, ev.Announce):
            self._publish(parcel, None, messages.encode(parcel.manifest))
        else:
            for index in command.chunks:
                self._publish(parcel, index, chunking.chunk(self.stored[parcel], parcel.manifest, index))
        self._soon(2.0, ev.Transmitted)

    def _publish(self, parcel: Parcel, index: int | None, content: bytes) -> None:
        self.link.send(topics.uplink(Part(self.name, RUN, parcel.round, index)), content, self.server.receive)

    def _soon(self, seconds: float, kind: type[Event]) -> None:
        world, life = self.link.world, self.life

        def happen() -> None:
            if life == self.life:
                self.take(kind(now=world.now, jitter=world.draw.random()))

        world.after(world.draw.random() * seconds, happen)

    def _tick(self, life: int) -> None:
        if life == self.life:
            self.take(Tick(now=self.link.world.now))
            self.link.world.after(0.5, lambda: self._tick(life))


class Server:
    """The core of `server.uplink`, and a book on disk of what was counted."""

    def __init__(self, link: Link, folder: Path | None, budget: int) -> None:
        self.link = link
        self.folder = folder
        self.budget = budget
        self.devices: dict[str, Device] = {}
        self.round = 0
        self.books: dict[int, ReceiptBook] = {}
        self.counted: Counter[tuple[str, int]] = Counter()
        self.bodies: dict[tuple[str, int], bytes] = {}
        self.restart()
        self._tick()

    def restart(self) -> None:
        partial = None if self.folder is None else PartialFiles(self.folder, RUN)
        self.uplink = Uplink(self.budget, LARGEST, partial, lambda: self.link.world.now)
        self.waiting: list[Complete] = []

    def open_round(self) -> None:
        self.round += 1
        self.books[self.round] = ReceiptBook(self.round)
        self.uplink.clear()

    def receive(self, topic: str, content: bytes) -> None:
        part = topics.parse_part(topic)
        try:
            if part.chunk is None:
                self._announced(part, messages.decode(content, Manifest))
            elif (complete := self.uplink.chunk(part, content)) is not None:
                assert (part.device, part.round) not in self.counted, "it was sent again after it was counted"
                self.waiting.append(complete)
        except ProtocolError:
            pass

    def _announced(self, part: Part, manifest: Manifest) -> None:
        receipt = self.books[part.round].standing(part, manifest.sha256)
        if receipt is not None:
            self._tell(part.device, "receipt", receipt)
        elif part.round == self.round:
            self._ask(part.device, self.uplink.manifest(part, manifest))

    def judge(self) -> None:
        """Open and count all that wait."""
        for complete in self.waiting:
            part = complete.part
            receipt = self.books[part.round].standing(part, complete.sha256)
            if receipt is None:
                body = keys.open_update(complete.payload, RUN, part.round, part.device)
                self.counted[part.device, part.round] += 1
                self.bodies[part.device, part.round] = body
                receipt = self.books[part.round].accept(part, complete.sha256)
            self.uplink.release(part)
            self._tell(part.device, "receipt", receipt)
        self.waiting.clear()

    def _tick(self) -> None:
        draw = self.link.world.draw
        assert self.uplink.outstanding <= max(self.budget, LARGEST) + LARGEST
        for device, need in self.uplink.tick():
            self._ask(device, need)
        if draw.random() < 0.5:
            self.judge()
        self.link.world.after(0.25, self._tick)

    def _ask(self, device: str, need: Need | None) -> None:
        if need is not None:
            self._tell(device, "need", need)

    def _tell(self, device: str, kind: str, message: Need | Receipt) -> None:
        content = sign(messages.encode(message), Context(kind, keys.FLEET, device=device), [keys.operator()])
        topic = topics.need(device) if kind == "need" else topics.receipt(device)
        self.link.send(topic, content, self.devices[device].receive)


def trouble(world: World, server: Server) -> None:
    """Now and then somebody is killed or loses the link."""
    match world.draw.randrange(6):
        case 0:
            server.restart()
        case 1 | 2:
            world.draw.choice(list(server.devices.values())).restart()
        case _:
            world.draw.choice(list(server.devices.values())).reconnect()
    world.after(world.draw.random() * 120, lambda: trouble(world, server))


@dataclass(frozen=True)
class Weather:
    """How bad the link is."""

    lost: float
    repeated: float
    corrupted: float
    slowest: float


WEATHER = st.builds(
    Weather, st.floats(0, 0.4), st.floats(0, 0.5), st.floats(0, 0.05), st.sampled_from([0.01, 1.0, 15.0])
)


@given(st.integers(0, 2**32), st.integers(1, 5), st.sampled_from([1, 2000, 100_000]), st.booleans(), WEATHER)
@settings(max_examples=25, deadline=None)
def test_every_payload_is_counted_exactly_once(
    seed: int, fleet: int, budget: int, on_disk: bool, weather: Weather
) -> None:
    world = World(seed)
    link = Link(world, weather)
    with TemporaryDirectory() as folder:
        server = Server(link, Path(folder) if on_disk else None, budget)
        for number in range(fleet):
            server.devices[f"d{number}"] = Device(f"d{number}", link, server)
        trouble(world, server)
        bodies = {}
        for number in (1, 2, 3):
            server.open_round()
            for name, device in server.devices.items():
                bodies[name, number] = world.draw.randbytes(world.draw.choice((10, 500, 3000)))
                device.give(number, bodies[name, number])
            world.run(lambda number=number: all((name, number) in server.counted for name in server.devices))
        world.run(lambda: not any(device.stored for device in server.devices.values()))
    assert server.counted == Counter(dict.fromkeys(bodies, 1))
    assert server.bodies == bodies
    assert all(device.settled == Counter({1: 1, 2: 1, 3: 1}) for device in server.devices.values())
