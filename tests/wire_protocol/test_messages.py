from __future__ import annotations

import random
import re
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wire_protocol import messages
from wire_protocol.device_state import DeviceState
from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.messages import Decline, Manifest, Message, Need, Receipt, RoundPlan, Slice, Update, Want
from wire_protocol.model_difference import MAX_DIFFERENCES, ModelDifference
from wire_protocol.privacy import DevicePrivacy, RecordPrivacy

HASH = "0123456789abcdef" * 4
NAN, INFINITY = float("nan"), float("inf")

PLAN = RoundPlan(
    run="r1",
    round=3,
    resync_round=1,
    model_version=2,
    bundle=HASH,
    model=HASH,
    deadline=1.75e9,
    local_steps=10,
    batch_size=32,
    learning_rate=0.1,
    keep=0.25,
)
DIFFERENCE = ModelDifference(base=HASH, sha256=HASH, size=9, precision="int4")
UPDATE = Update(
    run="r1",
    round=3,
    model_version=2,
    examples=100,
    trained=320,
    scored=0,
    kept={"fc1": b"\x80", "conv": b"\x01\x02"},
    precision="float16",
    values=b"\x00\x01",
)
SLICE = Slice(run="r1", round=3, model_version=2, precision="float32", values=b"\x00")
MANIFEST = Manifest(sha256=bytes(range(32)), size=10, chunk_bytes=4)
NEED = Need(run="r1", round=3, missing=(0, 2))
RECEIPT = Receipt(run="r1", round=3, sha256=bytes(32), accepted=False, reason="late")
DECLINE = Decline(run="r1", round=3, cause="training")
STATE = DeviceState(online=True, examples=7, runtime="portable", client="0.1.0", temperature=40.0, free_mb=7)
WANT = Want(path=f"models/{HASH}", sha256=bytes(range(32)), missing=(0, 2))
NULLABLE = ("privacy", "ledger", "within", "temperature", "budget_left", "free_mb")
ALL = (PLAN, UPDATE, SLICE, MANIFEST, NEED, RECEIPT, DECLINE, STATE, WANT)


def fields_of(message: Message) -> dict[str, Any]:
    return dict(msgspec.msgpack.decode(messages.encode(message)))


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_every_message_round_trips(message: Message) -> None:
    payload = messages.encode(message)
    assert messages.decode(payload, type(message)) == message
    assert fields_of(message)["v"] == 1


def test_the_names_of_the_messages() -> None:
    assert [fields_of(message)["type"] for message in ALL] == [
        "plan",
        "update",
        "slice",
        "manifest",
        "need",
        "receipt",
        "decline",
        "state",
        "want",
    ]


def test_resync_is_the_round_that_chooses() -> None:
    assert not PLAN.resync
    assert msgspec.structs.replace(PLAN, resync_round=3).resync


def test_differences_are_few_and_of_a_resync() -> None:
    resync = msgspec.structs.replace(PLAN, resync_round=3)
    for plan, most in ((PLAN, 0), (resync, MAX_DIFFERENCES)):
        msgspec.structs.replace(plan, differences=(DIFFERENCE,) * most)
        with pytest.raises(InvalidValueError, match=f"differences must be at most .*, got {most + 1}"):
            msgspec.structs.replace(plan, differences=(DIFFERENCE,) * (most + 1))


@pytest.mark.parametrize(
    "change",
    [
        {"base": HASH.upper()},
        {"sha256": HASH[1:]},
        {"size": 0},
        {"size": 1.5},
        {"precision": "float32"},
        {"precision": None},
        {"surplus": 1},
    ],
)
def test_a_difference_that_is_none_is_refused(change: dict[str, object]) -> None:
    fields = {**fields_of(PLAN), "resync_round": 3, "differences": [msgspec.to_builtins(DIFFERENCE)]}
    assert messages.decode(msgspec.msgpack.encode(fields), RoundPlan).differences == (DIFFERENCE,)
    fields["differences"] = [msgspec.to_builtins(DIFFERENCE) | change]
    with pytest.raises(ProtocolError):
        messages.decode(msgspec.msgpack.encode(fields), RoundPlan)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"count": -1}, "count must be 0 to 2^53, got -1"),
        ({"count": 2**53 + 1}, "count must be 0 to 2^53"),
        ({"count": 1.0}, "Expected `int`"),
        ({"head": bytes(31)}, "head must be 32 bytes"),
        ({"head": None}, "Expected `bytes`"),
        ({"surplus": 1}, "surplus"),
    ],
)
@pytest.mark.parametrize("message", [UPDATE, RECEIPT], ids=["update", "receipt"])
def test_a_mark_of_a_ledger_that_is_none_is_refused(message: Message, change: dict[str, object], words: str) -> None:
    mark = {"count": 7, "head": bytes(32)}
    read = messages.decode(msgspec.msgpack.encode({**fields_of(message), "ledger": mark}), type(message))
    assert read.ledger == LedgerMark(7, bytes(32))
    with pytest.raises(ProtocolError, match=re.escape(words)):
        messages.decode(msgspec.msgpack.encode({**fields_of(message), "ledger": mark | change}), type(message))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"examples": -1}, "examples must be 0 to 2^53, got -1"),
        ({"release": "r" * 65}, "release must be at most 64 characters"),
        ({"temperature": -100.5}, "temperature must be -100 to 200 degrees Celsius, got -100.5"),
        ({"temperature": float("nan")}, "temperature must be -100 to 200"),
        ({"paused": "p" * 201}, "paused must be at most 200 characters"),
        ({"budget_left": -0.1}, "budget_left must be at least 0 and finite, got -0.1"),
        ({"budget_left": float("inf")}, "budget_left must be at least 0 and finite"),
        ({"free_mb": -1}, "free_mb must be 0 to 2^53"),
        ({"free_mb": 0.5}, "Expected `int | null`"),
    ],
)
def test_a_state_outside_its_ranges_is_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ProtocolError, match=re.escape(words)):
        messages.decode(msgspec.msgpack.encode(fields_of(STATE) | change), DeviceState)


def test_the_ends_of_a_states_ranges_are_legal() -> None:
    for change in ({"temperature": -100.0}, {"temperature": 200.0}, {"budget_left": 0.0}, {"paused": "p" * 200}):
        fields = fields_of(STATE) | {"release": "r" * 64} | change
        assert messages.decode(msgspec.msgpack.encode(fields), DeviceState).release == "r" * 64


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_an_unknown_version_is_refused_before_anything_else(message: Message) -> None:
    for fields in ({"v": 2}, {"v": 2, "type": 5, "surplus": None}, {**fields_of(message), "v": 0}):
        with pytest.raises(ProtocolError, match=r"protocol version \d is not known here, expected 1"):
            messages.decode(msgspec.msgpack.encode(fields), type(message))


@pytest.mark.parametrize("version", [None, True, 1.0, "1"])
def test_a_version_is_an_integer(version: object) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(msgspec.msgpack.encode({**fields_of(STATE), "v": version}), DeviceState)


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_unknown_missing_and_null_fields_are_refused(message: Message) -> None:
    kind, fields = type(message), fields_of(message)
    defaults = {field.name for field in msgspec.structs.fields(kind) if not field.required} - {"v"}
    broken = [{**fields, "surplus": 1}]
    broken += [{name: value for name, value in fields.items() if name != gone} for gone in fields.keys() - defaults]
    broken += [{**fields, name: None} for name in fields if name not in NULLABLE]
    for candidate in broken:
        with pytest.raises(ProtocolError):
            messages.decode(msgspec.msgpack.encode(candidate), kind)


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_another_kind_is_refused(message: Message) -> None:
    other = SLICE if message is STATE else STATE
    with pytest.raises(ProtocolError):
        messages.decode(messages.encode(message), type(other))
    with pytest.raises(ProtocolError):
        messages.decode(msgspec.msgpack.encode({**fields_of(message), "type": "other"}), type(message))


def test_what_follows_a_message_is_refused() -> None:
    with pytest.raises(ProtocolError, match="trailing"):
        messages.decode(messages.encode(STATE) + b"\x00", DeviceState)


@pytest.mark.parametrize(
    "path",
    [
        "",
        f"models/{HASH.upper()}",
        f"models/{HASH}/x",
        f"differences/{HASH}/x",
        f"models/{HASH}/since/{HASH}",
        f"bundles/{HASH}",
        f"bundles/{HASH}/",
        f"bundles/{HASH}/../x",
        f"bundles/{HASH}/.x",
        f"bundles/{HASH}/a//b",
        f"/models/{HASH}",
        f"models/{HASH}\n",
        f"bundles/{HASH}/{'a' * 512}",
    ],
)
def test_a_path_that_no_file_has_is_refused(path: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^path must be bundles/HASH/FILE, or HASH in models"):
        Want(path=path)


def test_a_want_asks_for_few_chunks_of_a_payload_it_names() -> None:
    for path in (f"bundles/{HASH}/rung-1/checkpoint", f"differences/{HASH}"):
        assert Want(path=path).missing == ()
    with pytest.raises(InvalidValueError, match="sha256"):
        Want(path=WANT.path, missing=(0,))
    for missing in ((-1,), (messages.MAX_CHUNKS,), tuple(range(messages.MAX_WANTED + 1))):
        with pytest.raises(InvalidValueError, match="missing"):
            Want(path=WANT.path, sha256=bytes(32), missing=missing)


ROUND_RANGE = [("run", ""), ("run", "a/b"), ("run", "#"), ("round", 0), ("round", -1), ("round", 10**9)]
COUNT_RANGE = [-1, 2**53 + 1]
OUT_OF_RANGE: list[tuple[Message, str, object]] = [
    *[
        (message, name, value)
        for message in (PLAN, UPDATE, SLICE, NEED, RECEIPT, DECLINE)
        for name, value in ROUND_RANGE
    ],
    *[(message, "model_version", value) for message in (PLAN, UPDATE, SLICE) for value in COUNT_RANGE],
    *[(PLAN, "resync_round", value) for value in (0, 4)],
    *[
        (PLAN, name, value)
        for name in ("bundle", "model")
        for value in ("", "../" + 61 * "a", HASH.upper(), HASH + "0")
    ],
    *[(PLAN, "deadline", value) for value in (NAN, INFINITY, -INFINITY)],
    *[(PLAN, name, value) for name in ("local_steps", "batch_size") for value in (0, *COUNT_RANGE)],
    *[(PLAN, "learning_rate", value) for value in (0.0, -0.1, NAN, INFINITY)],
    *[(PLAN, "keep", value) for value in (0.0, -0.1, 1.1, NAN)],
    *[(message, "top_k", value) for message in (PLAN, UPDATE) for value in (0.0, -0.1, 1.5, NAN)],
    *[(UPDATE, "selection", value) for value in (bytes(8), b"\0")],
    (PLAN, "most_stale", -1),
    *[
        (msgspec.structs.replace(PLAN, privacy=privacy, selection="random"), "selection", selection)
        for privacy in (DevicePrivacy(1.0, 2.0), RecordPrivacy(1.0, 2.0, 0.1))
        for selection in ("fisher", "fisher-cohort")
    ],
    (msgspec.structs.replace(PLAN, privacy=DevicePrivacy(1.0, 2.0), selection="random"), "score_examples", 9),
    *[(UPDATE, name, value) for name in ("examples", "trained") for value in (0, *COUNT_RANGE)],
    *[(UPDATE, "scored", value) for value in COUNT_RANGE],
    *[(message, "sha256", value) for message in (MANIFEST, RECEIPT) for value in (b"", bytes(31), bytes(33))],
    *[(MANIFEST, name, value) for name in ("size", "chunk_bytes") for value in (0, -1)],
    *[(NEED, "missing", value) for value in ((-1,), (65_536,))],
    *[(STATE, "examples", value) for value in COUNT_RANGE],
]


@pytest.mark.parametrize(("message", "field", "value"), OUT_OF_RANGE)
def test_every_range_is_checked_when_made_and_when_read(message: Message, field: str, value: object) -> None:
    with pytest.raises(InvalidValueError, match=f"^{field} must be "):
        msgspec.structs.replace(message, **{field: value})
    with pytest.raises(ProtocolError, match=f"not a valid {type(message).__name__}: {field} must be "):
        messages.decode(msgspec.msgpack.encode({**fields_of(message), field: value}), type(message))


def test_small_things_are_few() -> None:
    """They are counted before any of them is read, as each takes far more memory than bytes."""
    with pytest.raises(InvalidValueError, match=r"^missing must be at most 4096 chunk numbers"):
        Need(run="r1", round=3, missing=(0,) * 4097)
    with pytest.raises(ProtocolError, match="length <= 4096"):
        messages.decode(msgspec.msgpack.encode({**fields_of(NEED), "missing": [0] * 4097}), Need)
    kept = {f"g{number}": b"" for number in range(1025)}
    with pytest.raises(ProtocolError, match="length <= 1024"):
        messages.decode(msgspec.msgpack.encode({**fields_of(UPDATE), "kept": kept}), Update)


@pytest.mark.parametrize("message", [UPDATE, STATE])
def test_a_message_is_short_but_for_its_values(message: Message) -> None:
    long = {**fields_of(message), "values": bytes(100_000)} if message is UPDATE else fields_of(message)
    assert isinstance(messages.decode(msgspec.msgpack.encode(long), type(message)), type(message))
    for name in ("type", "run", "unknown"):
        content = msgspec.msgpack.encode({**long, name: "a" * 33_000})
        with pytest.raises(ProtocolError, match="more than 32768 bytes besides its values"):
            messages.decode(content, type(message))


@pytest.mark.parametrize(
    ("message", "field", "value"),
    [
        (PLAN, "selection", "best"),
        (PLAN, "precision", "int3"),
        (PLAN, "downlink", "ternary"),
        (SLICE, "precision", "ternary"),
        (PLAN, "training", {"optimizer": "lion"}),
        (PLAN, "training", {"momentum": 1.0}),
        (PLAN, "training", {"surplus": 1}),
        (PLAN, "ranking", {"fc1": [1, 0]}),
        (UPDATE, "scores", "text"),
        (UPDATE, "precision", ""),
        (UPDATE, "kept", {"fc1": "text"}),
        (UPDATE, "kept", [b"\x80"]),
        (UPDATE, "values", "text"),
        (UPDATE, "examples", 1.0),
        (UPDATE, "examples", True),
        (RECEIPT, "accepted", 1),
        (NEED, "missing", [1.0]),
        (STATE, "client", b"bytes"),
    ],
)
def test_other_types_and_names_are_refused(message: Message, field: str, value: object) -> None:
    with pytest.raises(ProtocolError, match=f"not a valid {type(message).__name__}: "):
        messages.decode(msgspec.msgpack.encode({**fields_of(message), field: value}), type(message))


def test_a_whole_number_may_stand_for_a_float() -> None:
    assert messages.decode(msgspec.msgpack.encode({**fields_of(PLAN), "deadline": 5}), RoundPlan).deadline == 5.0


@pytest.mark.parametrize("payload", [b"\x91" * 100_000, b"\x82\xa1v\x01\xa1x" + b"\x91" * 100_000])
def test_deep_nesting_is_refused(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(payload, DeviceState)


def test_errors_about_hostile_messages_stay_short() -> None:
    payload = msgspec.msgpack.encode({**fields_of(MANIFEST), "sha256": bytes(100_000)})
    with pytest.raises(ProtocolError) as caught:
        messages.decode(payload, Manifest)
    assert len(str(caught.value)) < 300


def decoded_or_none(payload: bytes, kind: type[Message]) -> Message | None:
    with suppress(ProtocolError):
        return messages.decode(payload, kind)
    return None


def require_total(payload: bytes) -> None:
    for kind in map(type, ALL):
        message = decoded_or_none(payload, kind)
        if message is not None:
            assert messages.decode(messages.encode(message), kind) == message


@given(payload=st.binary(max_size=80))
@settings(max_examples=500, deadline=None)
def test_reading_any_bytes_is_total(payload: bytes) -> None:
    require_total(payload)


json_like = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.text(max_size=5)
    | st.binary(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(message=st.sampled_from(ALL), data=st.data())
@settings(max_examples=500, deadline=None)
def test_reading_messages_with_other_values_is_total(message: Message, data: st.DataObject) -> None:
    fields = fields_of(message)
    for name in data.draw(st.lists(st.sampled_from(sorted(fields)), max_size=3)):
        fields[name] = data.draw(json_like)
    require_total(msgspec.msgpack.encode(fields))


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_reading_mutated_messages_is_total(message: Message) -> None:
    generator = random.Random(7)
    valid = messages.encode(message)
    for _ in range(300):
        mutated = bytearray(valid)
        for _ in range(generator.randint(1, 3)):
            place = generator.randrange(len(mutated))
            mutated[place : place + generator.randint(0, 2)] = generator.randbytes(generator.randint(0, 2))
        require_total(bytes(mutated))
    for end in range(len(valid)):
        with pytest.raises(ProtocolError):
            messages.decode(valid[:end], type(message))


def test_a_plan_takes_updates_of_plans_up_to_so_many_versions_behind():
    def plan(number: int, most_stale: int, version: int) -> RoundPlan:
        return msgspec.structs.replace(PLAN, round=number, most_stale=most_stale, model_version=version)

    newest = plan(9, 2, 5)
    assert [newest.takes_updates_of(plan(8, 2, version)) for version in (2, 3, 5, 6)] == [False, True, True, False]
    assert not plan(9, 0, 5).takes_updates_of(plan(8, 2, 5))
