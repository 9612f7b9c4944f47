import pytest

from edge_client.downlink import Downlink
from wire_protocol import topics
from wire_protocol.chunking import chunk, manifest_of
from wire_protocol.errors import ProtocolError
from wire_protocol.messages import Need, Receipt, RoundPlan, Slice, encode

ROOM = 10_000
PLAN = RoundPlan(
    run="r", round=2, resync_round=1, model_version=1, bundle="b" * 64, model="a" * 64, deadline=9.0, local_steps=1,
    batch_size=1, learning_rate=0.1, keep=0.5,
)  # fmt: skip


def a_slice(number: int = 2, values: bytes = bytes(range(200))) -> Slice:
    return Slice(run="r", round=number, model_version=1, precision="float32", values=values)


def pieces(content: Slice, number: int = 2, device: str = "pi"):
    """Topic and payload of the manifest and of every chunk."""
    payload = encode(content)
    manifest = manifest_of(payload, chunk_bytes=100)
    part = topics.Part(device, "r", number, None)
    yield topics.slice_(part), encode(manifest)
    for index in range(manifest.chunk_count):
        yield topics.slice_(part._replace(chunk=index)), chunk(payload, manifest, index)


def read_all(downlink: Downlink, messages):
    return [found for topic, payload in messages if (found := downlink.read(topic, payload, ROOM)) is not None]


def test_plan_receipt_and_need_are_read():
    downlink = Downlink("pi")
    receipt = Receipt(run="r", round=2, sha256=bytes(32), accepted=True)
    need = Need(run="r", round=2, missing=(1, 2))
    assert downlink.read(topics.plan("r"), encode(PLAN), ROOM) == PLAN
    assert downlink.read(topics.receipt("pi"), encode(receipt), ROOM) == receipt
    assert downlink.read(topics.need("pi"), encode(need), ROOM) == need


def test_a_cleared_plan_is_no_message():
    assert Downlink("pi").read(topics.plan("r"), b"", ROOM) is None


def test_a_slice_is_put_together_in_any_order_with_pieces_repeated():
    downlink = Downlink("pi")
    manifest, *chunks = pieces(a_slice())
    messages = [manifest, chunks[2], chunks[0], manifest, chunks[2], chunks[1], chunks[1]]
    assert read_all(downlink, messages) == [a_slice()]
    assert downlink.slice_of("r", 2) == a_slice()
    assert downlink.slice_of("r", 3) is None
    assert downlink.slice_of("s", 2) is None


def test_a_newer_slice_takes_the_place_of_one_half_read():
    downlink = Downlink("pi")
    half = list(pieces(a_slice()))[:2]
    assert read_all(downlink, [*half, *pieces(a_slice(3), 3), *half[1:]]) == [a_slice(3)]
    assert downlink.slice_of("r", 2) is None


def test_chunks_that_nothing_announced_are_ignored():
    assert read_all(Downlink("pi"), list(pieces(a_slice()))[1:]) == []


def test_a_slice_with_a_damaged_chunk_is_refused_and_can_be_sent_again():
    downlink = Downlink("pi")
    manifest, *chunks = pieces(a_slice())
    read_all(downlink, [manifest, *chunks[:2]])
    with pytest.raises(ProtocolError, match="SHA-256"):
        downlink.read(chunks[2][0], bytes(len(chunks[2][1])), ROOM)
    assert read_all(downlink, [manifest, *chunks]) == [a_slice()]


def test_a_slice_larger_than_the_model_is_refused_before_its_chunks_come():
    manifest, *_ = pieces(a_slice())
    with pytest.raises(ProtocolError, match="at most 200"):
        Downlink("pi").read(*manifest, 200)


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (topics.plan("r"), b"\xc1"),
        (topics.plan("other"), encode(PLAN)),
        (topics.receipt("pi"), encode(PLAN)),
        (topics.need("pi"), b""),
        ("fl/v1/down/pi/weather", b""),
        ("fl/v1/down/pi/slice/r/2/manifest", b"x"),
        ("fl/v1/down/other/slice/r/2/0", b"x"),
    ],
)
def test_what_is_not_legal_is_refused(topic, payload):
    with pytest.raises(ProtocolError):
        Downlink("pi").read(topic, payload, ROOM)


def test_a_slice_that_names_another_round_than_its_topic_is_refused():
    with pytest.raises(ProtocolError, match="a slice of r/3 came as r/2"):
        read_all(Downlink("pi"), pieces(a_slice(3), number=2))
