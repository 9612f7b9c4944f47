import pytest

from edge_client.credentials import Credentials
from edge_client.downlink import Downlink
from tests.fleet_keys import FLEET, device, fleet, operator, sealed_slice, signed, signed_for, signed_plan
from wire_protocol import topics
from wire_protocol.chunking import chunk, manifest_of
from wire_protocol.envelope import Context, seal
from wire_protocol.errors import ProtocolError
from wire_protocol.identity import Fleet
from wire_protocol.messages import Need, Receipt, RoundPlan, Slice, encode

ROOM = 10_000
PLAN = RoundPlan(
    run="r", round=2, resync_round=1, model_version=1, bundle="b" * 64, model="a" * 64, deadline=9.0, local_steps=1,
    batch_size=1, learning_rate=0.1, keep=0.5,
)  # fmt: skip


def a_slice(number: int = 2, values: bytes = bytes(range(200))) -> Slice:
    return Slice(run="r", round=number, model_version=1, precision="float32", values=values)


def downlink(run: str | None = None) -> Downlink:
    return Downlink(Credentials("pi", fleet(), (device("pi"),)), run)


def pieces(content: Slice, number: int = 2, payload: bytes | None = None):
    """Topic and payload of the manifest and of every chunk."""
    payload = payload or sealed_slice(content, "pi")
    manifest = manifest_of(payload, chunk_bytes=200)
    part = topics.Part("pi", "r", number, None)
    yield topics.slice_(part), encode(manifest)
    for index in range(manifest.chunk_count):
        yield topics.slice_(part._replace(chunk=index)), chunk(payload, manifest, index)


def read_all(reader: Downlink, messages):
    return [found for topic, payload in messages if (found := reader.read(topic, payload, ROOM)) is not None]


def test_plan_receipt_and_need_are_read():
    reader = downlink()
    receipt = Receipt(run="r", round=2, sha256=bytes(32), accepted=True)
    need = Need(run="r", round=2, missing=(1, 2))
    assert reader.read(topics.plan("r"), signed_plan(PLAN), ROOM) == PLAN
    assert reader.read(topics.receipt("pi"), signed_for("receipt", receipt, "pi"), ROOM) == receipt
    assert reader.read(topics.need("pi"), signed_for("need", need, "pi"), ROOM) == need


def test_a_cleared_plan_is_no_message():
    assert downlink().read(topics.plan("r"), b"", ROOM) is None


def test_a_slice_is_put_together_in_any_order_with_pieces_repeated():
    reader = downlink()
    manifest, *chunks = pieces(a_slice())
    messages = [manifest, chunks[2], chunks[0], manifest, chunks[2], chunks[1], chunks[1]]
    assert read_all(reader, messages) == [a_slice()]
    assert reader.slice_of("r", 2) == a_slice()
    assert reader.slice_of("r", 3) is None
    assert reader.slice_of("s", 2) is None


def test_a_newer_slice_takes_the_place_of_one_half_read():
    reader = downlink()
    half = list(pieces(a_slice()))[:2]
    assert read_all(reader, [*half, *pieces(a_slice(3), 3), *half[1:]]) == [a_slice(3)]
    assert reader.slice_of("r", 2) is None


def test_chunks_that_nothing_announced_are_ignored():
    assert read_all(downlink(), list(pieces(a_slice()))[1:]) == []


def test_a_slice_with_a_damaged_chunk_is_refused_and_can_be_sent_again():
    reader = downlink()
    manifest, *chunks = pieces(a_slice())
    read_all(reader, [manifest, *chunks[:2]])
    with pytest.raises(ProtocolError, match="SHA-256"):
        reader.read(chunks[2][0], bytes(len(chunks[2][1])), ROOM)
    assert read_all(reader, [manifest, *chunks]) == [a_slice()]


def test_a_slice_larger_than_the_model_is_refused_before_its_chunks_come():
    manifest, *_ = pieces(a_slice(values=bytes(1000)))
    with pytest.raises(ProtocolError, match="at most 484"):
        downlink().read(*manifest, 100)


@pytest.mark.parametrize("topic", [topics.plan("r"), topics.need("pi"), topics.receipt("pi")])
def test_a_message_longer_than_any_is_refused_before_it_is_read(topic: str):
    with pytest.raises(ProtocolError, match="65537 bytes, expected at most 65536"):
        downlink().read(topic, bytes(65_537), 10**9)


RECEIPT = Receipt(run="r", round=2, sha256=bytes(32), accepted=True)
NEED = Need(run="r", round=2, missing=(1, 2))
STRANGER = operator("stranger")


@pytest.mark.parametrize(
    ("topic", "payload"),
    [
        (topics.plan("r"), b"\xc1"),
        (topics.receipt("pi"), signed_plan(PLAN)),
        (topics.receipt("pi"), signed_for("need", RECEIPT, "pi")),
        (topics.need("pi"), b""),
        ("fl/v1/down/pi/weather", b""),
        ("fl/v1/down/pi/slice/r/2/manifest", b"x"),
        ("fl/v1/down/other/slice/r/2/0", b"x"),
        ("fl/v1/down/plan", b""),
        # unsigned
        (topics.plan("r"), encode(PLAN)),
        (topics.receipt("pi"), encode(RECEIPT)),
        (topics.need("pi"), encode(NEED)),
        # signed by a stranger, or by the device itself
        (topics.plan("r"), signed(PLAN, Context("plan", FLEET, "r"), STRANGER)),
        (topics.receipt("pi"), signed(RECEIPT, Context("receipt", FLEET, device="pi"), device("pi"))),
        (topics.need("pi"), signed(NEED, Context("need", FLEET, device="pi"), STRANGER)),
        # for another run, device or fleet
        (topics.plan("other"), signed_plan(PLAN)),
        (topics.plan("other"), signed(PLAN, Context("plan", FLEET, "other"))),
        (topics.plan("r"), signed(PLAN, Context("plan", "another-fleet", "r"))),
        (topics.receipt("pi"), signed_for("receipt", RECEIPT, "other")),
        (topics.need("pi"), signed_for("need", NEED, "other")),
    ],
)
def test_what_is_not_legal_is_refused(topic, payload):
    with pytest.raises(ProtocolError):
        downlink().read(topic, payload, ROOM)


def test_every_flipped_byte_of_a_signed_message_is_noticed():
    payload = signed_for("receipt", RECEIPT, "pi")
    for at in range(len(payload)):
        with pytest.raises(ProtocolError):
            downlink().read(topics.receipt("pi"), payload[:at] + bytes([payload[at] ^ 1]) + payload[at + 1 :], ROOM)


def test_a_device_for_one_run_takes_no_plan_of_another():
    assert downlink("r").read(topics.plan("r"), signed_plan(PLAN), ROOM) == PLAN
    with pytest.raises(ProtocolError, match="not this device's"):
        downlink("s").read(topics.plan("r"), signed_plan(PLAN), ROOM)


def sealed(content: Slice, context: Context, signer, recipient) -> bytes:
    return seal(encode(content), context, [signer], recipient.public)


RIGHT = Context("slice", FLEET, "r", 2, "pi")


@pytest.mark.parametrize(
    "payload",
    [
        encode(a_slice()),
        sealed(a_slice(), RIGHT, STRANGER, device("pi")),
        sealed(a_slice(), RIGHT, operator(), device("other")),
        sealed(a_slice(), Context("slice", FLEET, "r", 2, "other"), operator(), device("pi")),
        sealed(a_slice(), Context("slice", FLEET, "r", 3, "pi"), operator(), device("pi")),
        sealed(a_slice(), Context("slice", FLEET, "s", 2, "pi"), operator(), device("pi")),
        sealed(a_slice(), Context("slice", "another-fleet", "r", 2, "pi"), operator(), device("pi")),
        sealed(a_slice(), Context("update", FLEET, "r", 2, "pi"), operator(), device("pi")),
    ],
)
def test_a_slice_that_is_not_for_this_device_and_round_is_refused_and_the_right_one_taken(payload):
    reader = downlink()
    with pytest.raises(ProtocolError):
        read_all(reader, pieces(a_slice(), payload=payload))
    assert reader.slice_of("r", 2) is None
    assert read_all(reader, pieces(a_slice())) == [a_slice()]


def test_while_keys_change_the_old_and_the_new_ones_are_taken_on_both_sides():
    newer, older = operator("newer"), operator()
    both = Credentials("pi", Fleet(FLEET, (newer.public, older.public)), (device("pi newer"), device("pi")))
    for signer in (newer, older):
        payload = signed(RECEIPT, Context("receipt", FLEET, device="pi"), signer)
        assert Downlink(both).read(topics.receipt("pi"), payload, ROOM) == RECEIPT
        for recipient in (device("pi newer"), device("pi")):
            messages = pieces(a_slice(), payload=sealed(a_slice(), RIGHT, signer, recipient))
            assert read_all(Downlink(both), messages) == [a_slice()]


def test_a_slice_that_names_another_round_than_its_topic_is_refused():
    payload = sealed(a_slice(3), RIGHT, operator(), device("pi"))
    with pytest.raises(ProtocolError, match="a slice of r/3 came as r/2"):
        read_all(downlink(), pieces(a_slice(3), payload=payload))
