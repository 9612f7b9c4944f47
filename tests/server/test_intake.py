import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from server.inbox import Inbox, StateReport
from server.intake import Desk, Intake
from server.partial_files import PartialFiles
from server.receipts import refusal
from server.registry import Enrolled, Registry, encode_registry
from server.traffic import Traffic
from server.uplink import Complete, Uplink
from wire_protocol import chunking, messages, topics
from wire_protocol.device_state import DeviceState
from wire_protocol.identity import new_identity
from wire_protocol.messages import Manifest, Message, Need, Receipt
from wire_protocol.topics import Part

KEYS = new_identity().public
PAYLOAD = bytes(range(25))
MANIFEST = chunking.manifest_of(PAYLOAD, 10)
ALL = Need(run="run", round=1, missing=(0, 1, 2))


@dataclass
class Downlink:
    """What was sent to whom."""

    sent: list[tuple[str, Message]] = field(default_factory=list)

    def receipt(self, device: str, receipt: Receipt) -> None:
        self.sent.append((device, receipt))

    need = receipt

    def take(self) -> list[tuple[str, Message]]:
        sent, self.sent = self.sent, []
        return sent


@dataclass
class Answers:
    """Round 1 is open; updates in `counted` were counted."""

    counted: set[tuple[Part, bytes]] = field(default_factory=set)
    resting: bool = False

    def standing(self, part: Part, sha256: bytes) -> Receipt | None:
        if part.round != 1:
            return refusal(part, sha256, f"round {part.round} is not open")
        if (part, sha256) in self.counted:
            return Receipt(run=part.run, round=part.round, sha256=sha256, accepted=True)
        return None


class Bench:
    """An intake with everything that is real but the link, and a clock to turn."""

    def __init__(self, folder: Path) -> None:
        self.now = 0.0
        self.path = folder / "devices.json"
        self.enrol("a", "b")
        self.wants: list[tuple[str, bytes]] = []
        self.reports: list[tuple[str, bytes]] = []
        self.downlink, self.answers, self.inbox = Downlink(), Answers(), Inbox()
        clock = lambda: self.now  # noqa: E731
        self.uplink = Uplink(50, 100, PartialFiles(folder / "partial", "run"), clock)
        self.intake = Intake(
            desks={"run": Desk(self.uplink, self.answers)},
            downlink=self.downlink,  # type: ignore[arg-type]
            traffic=Traffic(),
            inbox=self.inbox,
            registry=Registry.load(self.path),
            on_want=lambda device, payload: self.wants.append((device, payload)),
            on_report=lambda device, payload: self.reports.append((device, payload)),
            clock=clock,
        )

    def enrol(self, *devices: str, revoked: tuple[str, ...] = ("old",)) -> None:
        entries = {device: Enrolled((KEYS,)) for device in devices}
        entries |= {device: Enrolled((KEYS,), revoked=True) for device in revoked}
        fresh = self.path.with_name("fresh")
        fresh.write_bytes(encode_registry(entries))
        fresh.replace(self.path)

    def announce(self, device: str, manifest: Manifest = MANIFEST, number: int = 1, run: str = "run") -> None:
        topic = topics.uplink(Part(device, run, number, None))
        self.intake.on_message(topic, messages.encode(manifest))

    def chunk(self, device: str, index: int, content: bytes) -> None:
        self.intake.on_message(topics.uplink(Part(device, "run", 1, index)), content)

    def state(self, device: str, online: bool = True) -> None:
        self.intake.on_message(topics.state(device), messages.encode(DeviceState(online=online)))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


async def test_an_update_comes_whole_into_the_inbox(bench: Bench) -> None:
    bench.announce("a")
    assert bench.downlink.take() == [("a", ALL)]
    for index in (2, 0, 1):
        bench.chunk("a", index, chunking.chunk(PAYLOAD, MANIFEST, index))
    whole = Complete(Part("a", "run", 1, 1), MANIFEST.sha256, PAYLOAD)
    assert (await bench.inbox.get_batch()).updates == deque([whole])
    bench.announce("a")
    assert bench.downlink.take() == []
    bench.answers.counted.add((Part("a", "run", 1, None), MANIFEST.sha256))
    bench.uplink.release(Part("a", "run", 1, 1))
    bench.announce("a")
    ((device, receipt),) = bench.downlink.take()
    assert (device, receipt.accepted) == ("a", True)


def test_only_enrolled_devices_are_heard_when_they_want_files_and_not_too_often(bench: Bench) -> None:
    for device in ("a", "stranger", "old"):
        bench.intake.on_message(topics.want(device), b"signed")
    bench.intake.on_message(topics.want("a"), bytes(3000))
    assert bench.wants == [("a", b"signed")]
    for _ in range(200):
        bench.intake.on_message(topics.want("a"), b"signed")
        bench.intake.on_message(topics.want("b"), b"signed")
    assert Counter(device for device, _ in bench.wants) == {"a": 31, "b": 32}


def test_who_waits_is_told_on_a_tick(bench: Bench) -> None:
    bench.enrol("a", "b", "c")
    for device in "abc":
        bench.announce(device)
    assert bench.downlink.take() == [("a", ALL), ("b", ALL)]
    bench.intake.on_tick()
    assert bench.downlink.take() == []
    for index in range(3):
        bench.chunk("a", index, chunking.chunk(PAYLOAD, MANIFEST, index))
    bench.uplink.release(Part("a", "run", 1, 2))
    bench.intake.on_tick()
    assert bench.downlink.take() == [("c", ALL)]


@pytest.mark.parametrize(("device", "reason"), [("nobody", "is not enrolled in this fleet"), ("old", "was revoked")])
def test_strangers_are_refused_with_the_reason_and_get_no_room(
    bench: Bench, caplog: pytest.LogCaptureFixture, device: str, reason: str
) -> None:
    with caplog.at_level(logging.WARNING):
        bench.announce(device)
    ((receiver, receipt),) = bench.downlink.take()
    assert receiver == device
    assert not receipt.accepted
    assert receipt.sha256 == MANIFEST.sha256
    assert f"device {device} {reason}" in receipt.reason
    assert f"device {device} {reason}" in caplog.text
    bench.chunk(device, 0, PAYLOAD[:10])
    bench.intake.on_tick()
    assert bench.uplink.outstanding == 0
    assert bench.downlink.take() == []


def test_a_flood_of_strangers_costs_few_answers_few_log_lines_and_nobody_elses_turn(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        for number in range(5000):
            bench.announce(f"stranger{number}")
            bench.state(f"stranger{number}")
    assert len(bench.downlink.take()) <= 32
    assert len(caplog.records) <= 40
    bench.announce("a")
    assert bench.downlink.take() == [("a", ALL)]
    assert bench.inbox._queue.empty()


def test_a_flood_of_manifests_costs_a_device_only_its_own_answers(bench: Bench) -> None:
    for _ in range(1000):
        bench.announce("a")
    assert len(bench.downlink.take()) <= 32
    bench.announce("b")
    assert bench.downlink.take() == [("b", ALL)]
    bench.now += 10
    bench.announce("a")
    assert bench.downlink.take() == [("a", ALL)]


def test_alternating_manifests_never_hold_more_than_one_place(bench: Bench) -> None:
    other = chunking.manifest_of(PAYLOAD[::-1], 10)
    for number in range(200):
        bench.now += 1
        bench.announce("a", (MANIFEST, other)[number % 2])
        bench.chunk("a", 0, PAYLOAD[:10])
        assert bench.uplink.outstanding <= 25
    bench.downlink.take()
    bench.announce("b")
    assert bench.downlink.take() == [("b", ALL)]


@pytest.mark.parametrize("size", [101, 2**40, 2**64 - 1])
def test_a_huge_announcement_is_not_answered_as_nobody_signed_it(bench: Bench, size: int) -> None:
    bench.announce("a", Manifest(sha256=MANIFEST.sha256, size=size, chunk_bytes=size))
    assert bench.downlink.take() == []
    assert bench.uplink.outstanding == 0
    bench.announce("a")
    assert bench.downlink.take() == [("a", ALL)]


def test_an_update_of_a_round_that_is_over_is_answered_at_once(bench: Bench) -> None:
    bench.announce("a", number=2)
    ((_, receipt),) = bench.downlink.take()
    assert receipt.reason == "round 2 is not open"


def test_updates_of_other_runs_are_left_alone(bench: Bench) -> None:
    bench.announce("a", run="other")
    assert bench.downlink.take() == []
    assert bench.intake.traffic.total.up == 0


async def test_states_of_enrolled_devices_only(bench: Bench) -> None:
    for device in ("a", "nobody", "old", "b"):
        bench.state(device)
    bench.intake.on_message(topics.state("a"), b"")
    bench.intake.on_message(topics.state("b"), bytes(5000))
    online = DeviceState(online=True)
    assert (await bench.inbox.get_batch()).states == [StateReport("a", online), StateReport("b", online)]


def test_a_device_is_refused_from_when_it_is_revoked(bench: Bench) -> None:
    bench.announce("a")
    assert bench.downlink.take() == [("a", ALL)]
    bench.enrol("b", revoked=("old", "a"))
    bench.announce("a")
    ((_, receipt),) = bench.downlink.take()
    assert "was revoked" in receipt.reason
    bench.state("a")
    assert bench.inbox._queue.empty()


def test_a_disk_that_takes_nothing_stops_nobody_else(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bench.announce("a")
    (tmp_path / "partial").rmdir()
    with caplog.at_level(logging.WARNING):
        bench.chunk("a", 0, PAYLOAD[:10])
    assert "cannot be written" in caplog.text
    short = chunking.manifest_of(b"short", 10)
    bench.announce("b", short)
    bench.chunk("b", 0, b"short")
    assert not bench.inbox._queue.empty()
    (tmp_path / "partial").mkdir()
    bench.downlink.take()
    bench.announce("a")
    assert bench.downlink.take() == [("a", ALL)]


TOPICS = st.sampled_from(
    [
        topics.uplink(Part(device, "run", number, chunk))
        for device in ("a", "old", "nobody")
        for number in (1, 2)
        for chunk in (None, 0, 2, 999_999_999)
    ]
    + [topics.state("a"), topics.state("nobody"), "fl/v1/up/a/run/1", "fl/v1/state/", "fl/v1/up/a/run/0/manifest", "$x"]
)
CONTENTS = st.one_of(
    st.binary(max_size=80),
    st.just(messages.encode(MANIFEST)),
    st.builds(
        lambda size, chunk: messages.encode(Manifest(sha256=bytes(32), size=size, chunk_bytes=chunk)),
        st.integers(1, 200),
        st.integers(10, 200),
    ),
)


@given(st.lists(st.tuples(TOPICS, CONTENTS), max_size=40))
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_messages_are_taken_and_bounded(
    tmp_path_factory: pytest.TempPathFactory, sent: list[tuple[str, bytes]]
) -> None:
    bench = Bench(tmp_path_factory.mktemp("bench"))
    for topic, content in sent:
        bench.intake.on_message(topic, content)
        bench.intake.on_tick()
    assert bench.uplink.outstanding <= 100
    assert Counter(device for device, _ in bench.downlink.take())["a"] <= 33
