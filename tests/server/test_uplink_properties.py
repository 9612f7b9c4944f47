"""A fleet on a bad network, with a hostile device in it, against `Uplink`: nothing is lost, nothing comes twice."""

import random
from collections import Counter
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from server.partial_files import PartialFiles
from server.uplink import Complete, Uplink
from wire_protocol import chunking
from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.messages import Manifest, Need
from wire_protocol.topics import Part

LARGEST = 60
CHUNK = 10
HOSTILE = "hostile"
DEVICES = [f"d{number}" for number in range(8)]


class Fleet(RuleBasedStateMachine):
    @initialize(budget=st.integers(1, 200), on_disk=st.booleans(), seed=st.integers(0, 2**32))
    def start(self, budget: int, on_disk: bool, seed: int) -> None:
        draw = random.Random(seed)
        self.now = 0.0
        self.budget = budget
        self.folder = Path(mkdtemp()) if on_disk else None
        self.payloads = {device: draw.randbytes(draw.randint(1, LARGEST)) for device in DEVICES}
        self.network: list[tuple[Part, bytes]] = []
        self.inbox: dict[str, Complete] = {}
        self.written: dict[str, Part] = {}
        self.counted: Counter[str] = Counter()
        self.restart()

    def teardown(self) -> None:
        if not hasattr(self, "payloads"):
            return
        self.finish()
        if self.folder is not None:
            self.uplink.clear()
            assert list(self.folder.iterdir()) == []
            rmtree(self.folder)

    @rule()
    def restart(self) -> None:
        """What is in memory is lost; an update that was not counted will come again."""
        partial = None if self.folder is None else PartialFiles(self.folder, "run", max_bytes=10 * LARGEST)
        self.uplink = Uplink(self.budget, LARGEST, partial, lambda: self.now)
        self.partial = partial
        self.inbox.clear()
        self.written.clear()

    @rule(device=st.sampled_from(DEVICES))
    def announce(self, device: str) -> None:
        if device in self.counted:
            return
        need = self.uplink.manifest(Part(device, "run", 1, None), self.manifest_of(device))
        if need is not None:
            self.send(device, need)

    @rule()
    def announce_all(self) -> None:
        for device in DEVICES:
            self.announce(device)

    @rule(count=st.integers(1, 20))
    def deliver_in_order(self, count: int) -> None:
        for _ in range(count):
            self.deliver(0, 1)

    @rule(size=st.integers(1, 2 * LARGEST), chunk=st.integers(1, 70), salt=st.integers(0, 3))
    def announce_lies(self, size: int, chunk: int, salt: int) -> None:
        with suppress(ProtocolError, InvalidValueError):
            manifest = Manifest(sha256=sha256(bytes([salt])).digest(), size=size, chunk_bytes=chunk)
            self.uplink.manifest(Part(HOSTILE, "run", 1, None), manifest)

    @rule(index=st.integers(0, 70), content=st.binary(max_size=LARGEST), number=st.integers(1, 3))
    def send_lies(self, index: int, content: bytes, number: int) -> None:
        with suppress(ProtocolError):
            assert self.uplink.chunk(Part(HOSTILE, "run", number, index), content) is None

    @rule(at=st.integers(0, 10**6), times=st.integers(0, 2))
    def deliver(self, at: int, times: int) -> None:
        """A message in any order: never, once or twice."""
        if self.network:
            part, content = self.network.pop(at % len(self.network))
            for _ in range(times):
                self.receive(part, content)

    @rule(at=st.integers(0, 10**6))
    def alter(self, at: int) -> None:
        if self.network:
            part, content = self.network.pop(at % len(self.network))
            self.receive(part, bytes(byte ^ 1 for byte in content))

    @rule(seconds=st.sampled_from([0.25, 5.0, 25.0, 500.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.tick()

    @rule()
    def tick(self) -> None:
        for device, need in self.uplink.tick():
            if device != HOSTILE:
                self.send(device, need)

    @rule(at=st.integers(0, 10**6))
    def write(self, at: int) -> None:
        """A payload leaves the memory before it is counted."""
        if self.inbox:
            device = sorted(self.inbox)[at % len(self.inbox)]
            self.written[device] = self.inbox.pop(device).part
            self.uplink.let_go(self.written[device])

    @rule(at=st.integers(0, 10**6), well=st.booleans())
    def judge(self, at: int, well: bool) -> None:
        """Count a payload, or fail to: then it comes again."""
        waiting = self.written | {device: complete.part for device, complete in self.inbox.items()}
        if waiting:
            device = sorted(waiting)[at % len(waiting)]
            self.inbox.pop(device, None)
            self.written.pop(device, None)
            self.counted.update([device] if well else [])
            self.uplink.release(waiting[device])

    @invariant()
    def memory_and_disk_are_bounded(self) -> None:
        if not hasattr(self, "uplink"):
            return
        assert sum(len(complete.payload) for complete in self.inbox.values()) <= self.uplink.outstanding
        assert self.uplink.outstanding <= max(self.budget, LARGEST) + LARGEST
        assert self.uplink.outstanding >= 0
        if self.partial is not None:
            assert self.partial.bytes_kept <= 10 * LARGEST

    def manifest_of(self, device: str) -> Manifest:
        return chunking.manifest_of(self.payloads[device], CHUNK)

    def send(self, device: str, need: Need) -> None:
        manifest = self.manifest_of(device)
        assert need.missing
        for index in need.missing:
            part = Part(device, "run", 1, index)
            self.network.append((part, chunking.chunk(self.payloads[device], manifest, index)))

    def receive(self, part: Part, content: bytes) -> None:
        with suppress(ProtocolError):
            complete = self.uplink.chunk(part, content)
            if complete is not None:
                assert part.device not in self.inbox
                assert part.device not in self.written
                assert part.device not in self.counted
                assert complete.payload == self.payloads[part.device]
                self.inbox[part.device] = complete

    def finish(self) -> None:
        """From any state: who announces again and again, as devices do, is counted."""
        for _ in range(200):
            if len(self.counted) == len(DEVICES):
                break
            self.now += 3
            for device in DEVICES:
                self.announce(device)
            self.tick()
            while self.network:
                self.deliver(0, 1)
            while self.inbox or self.written:
                self.judge(0, True)
        assert self.counted == Counter(DEVICES)
        assert self.uplink.outstanding <= LARGEST


Fleet.TestCase.settings = settings(max_examples=100, stateful_step_count=60, deadline=None)
TestFleet = Fleet.TestCase
