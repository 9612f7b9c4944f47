from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt.client import topic_matches_sub

from wire_protocol import topics
from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.topics import Part

identifiers = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", fullmatch=True)
parts = st.builds(
    Part,
    identifiers,
    identifiers,
    st.integers(1, topics.MAX_NUMBER),
    st.none() | st.integers(0, topics.MAX_NUMBER),
)


@given(part=parts)
@settings(max_examples=150, deadline=None)
def test_pieces_round_trip(part: Part) -> None:
    assert topics.parse_part(topics.uplink(part)) == part
    assert topics.parse_part(topics.slice_(part)) == part


def test_the_grammar() -> None:
    assert topics.uplink(Part("d1", "r1", 2, None)) == "fl/v1/up/d1/r1/2/manifest"
    assert topics.uplink(Part("d1", "r1", 2, 0)) == "fl/v1/up/d1/r1/2/0"
    assert topics.slice_(Part("d1", "r1", 2, 7)) == "fl/v1/down/d1/slice/r1/2/7"
    assert topics.receipt("d1") == "fl/v1/down/d1/receipt"
    assert topics.need("d1") == "fl/v1/down/d1/need"
    assert topics.plan("r1") == "fl/v1/cast/r1/plan"
    assert topics.state("d1") == "fl/v1/state/d1"
    assert topics.downlink_filter("d1") == "fl/v1/down/d1/#"


def test_files_are_asked_for_and_come() -> None:
    digest = "0123456789abcdef" * 4
    assert topics.want("d1") == "fl/v1/up/d1/want"
    assert topics.parse_want("fl/v1/up/d1/want") == "d1"
    for chunk, piece in ((None, "manifest"), (0, "0"), (7, "7")):
        part = topics.FilePart("d1", digest, chunk)
        assert topics.file(part) == f"fl/v1/down/d1/file/{digest}/{piece}"
        assert topics.parse_file(topics.file(part)) == part
        assert topics.is_file(topics.file(part), "d1")
        assert not topics.is_file(topics.file(part), "d")
    for topic in ("fl/v1/up/d1/want/", "fl/v1/up//want", "fl/v1/up/a/b/want", "fl/v1/up/want", "d1", "fl/v1/up/+/want"):
        with pytest.raises(ProtocolError, match="not a topic on which a file is asked for"):
            topics.parse_want(topic)
    for piece in (f"{digest}/01", f"{digest}/", digest, f"{digest.upper()}/0", f"{digest[1:]}/0", f"{digest}/0/0"):
        with pytest.raises(ProtocolError, match="not a topic of a file"):
            topics.parse_file(f"fl/v1/down/d1/file/{piece}")


HOSTILE = ["", "#", "+", "a/b", "a b", "a\n", "\u0661", "\u00e9", ".", "..", "-a", "_a", "a" * 65, "$SYS", "a\x00"]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_refused_everywhere(name: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^device must be 1 to 64 letters"):
        topics.require_identifier("device", name)
    for topic in (f"fl/v1/up/{name}/r/1/0", f"fl/v1/up/d/{name}/1/0", f"fl/v1/down/{name}/slice/r/1/0"):
        with pytest.raises(ProtocolError):
            topics.parse_part(topic)
    with pytest.raises(ProtocolError):
        topics.parse_state(f"fl/v1/state/{name}")


@pytest.mark.parametrize("name", ["a", "7", "a-b_C9", "a" * 64])
def test_identifiers_are_taken(name: str) -> None:
    assert topics.require_identifier("run", name) == name
    assert topics.parse_state(topics.state(name)) == name


@pytest.mark.parametrize(
    "number", ["", "-1", "+1", "01", "1.0", "1e3", "\u0661", "\u00b2", " 1", "1\n", "1" * 10, "#", "+"]
)
def test_hostile_numbers_are_refused(number: str) -> None:
    for topic in (f"fl/v1/up/d/r/{number}/0", f"fl/v1/up/d/r/1/{number}", f"fl/v1/down/d/slice/r/1/{number}"):
        with pytest.raises(ProtocolError):
            topics.parse_part(topic)


@pytest.mark.parametrize(
    "topic",
    [
        "",
        "fl",
        "fl/v1/up/d/r/0/0",
        "fl/v1/up/d/r/1",
        "fl/v1/up/d/r/1/0/0",
        "/fl/v1/up/d/r/1/0",
        "fl/v2/up/d/r/1/0",
        "fl/v1/down/d/receipt",
        "fl/v1/down/d/slices/r/1/0",
        "fl/v1/up/d/r/1/Manifest",
        "fl/v1/up/d/r/1/manifest/",
        "fl/v1/cast/r/plan",
        "fl/v1/state/d",
    ],
)
def test_other_topics_are_no_pieces(topic: str) -> None:
    with pytest.raises(ProtocolError, match="not a topic of a chunked payload"):
        topics.parse_part(topic)


@pytest.mark.parametrize("topic", ["", "d", "fl/v1/state", "fl/v1/state/d/x", "fl/v2/state/d", "x/fl/v1/state/d"])
def test_other_topics_are_no_states(topic: str) -> None:
    with pytest.raises(ProtocolError, match="not a device's state topic"):
        topics.parse_state(topic)


@given(
    topic=st.text(max_size=60)
    | st.lists(st.sampled_from(["fl", "v1", "up", "down", "slice", "d", "1", "manifest"])).map("/".join)
)
@settings(max_examples=300, deadline=None)
def test_reading_any_topic_is_total(topic: str) -> None:
    try:
        part = topics.parse_part(topic)
    except ProtocolError:
        return
    assert topic in (topics.uplink(part), topics.slice_(part))


def device_topics(part: Part) -> dict[str, list[str]]:
    """Every topic that this module can make for a device, by what the device does with it."""
    device, run = part.device, part.run
    own = [topics.slice_(part), topics.receipt(device), topics.need(device), topics.release(device)]
    return {
        "publish": [topics.uplink(part), topics.state(device), topics.report(device)],
        "read": [*own, topics.plan(run), topics.model(run)],
    }


def allowed(role: str, device: str, access: str, topic: str) -> bool:
    rules = [rule for rule in topics.ACCESS_RULES if (rule.role, rule.access) == (role, access)]
    return any(topic_matches_sub(rule.filter_of(device), topic) for rule in rules)


@given(part=parts, other=identifiers)
@settings(max_examples=150, deadline=None)
def test_rules_allow_a_device_every_topic_of_its_own_and_no_other_device(part: Part, other: str) -> None:
    for access, made in device_topics(part).items():
        opposite = {"publish": "read", "read": "publish"}[access]
        for topic in made:
            assert allowed("device", part.device, access, topic)
            assert not allowed("device", part.device, opposite, topic)
            assert allowed("server", "", opposite, topic)
            assert not allowed("server", "", access, topic)
            if other != part.device and part.device in topic.split("/"):
                assert not allowed("device", other, access, topic) or topic.startswith("fl/v1/cast/")
                assert not allowed("device", other, opposite, topic)


@given(device=identifiers)
def test_what_an_end_subscribes_to_lies_within_its_rules(device: str) -> None:
    for name in (topics.downlink_filter(device), topics.plan("+"), topics.plan("r"), topics.model("+")):
        assert allowed("device", device, "read", name)
    for name in (topics.UPLINK_FILTER, topics.STATE_FILTER):
        assert allowed("server", "", "read", name)
