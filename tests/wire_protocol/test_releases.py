import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.wire_protocol.test_golden_bytes import MESSAGES
from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.messages import decode, encode
from wire_protocol.release_version import age, is_newer, is_version
from wire_protocol.topics import model, parse_report, release, report

numbers = st.lists(st.integers(0, 999_999_999), min_size=2, max_size=4)


@given(numbers, numbers)
def test_versions_are_ordered_number_by_number(one, other):
    first, second = (".".join(map(str, version)) for version in (one, other))
    padded = [[*version, 0, 0, 0][:4] for version in (one, other)]
    assert is_version(first)
    assert is_newer(first, second) == (padded[0] > padded[1])
    assert age(first) == tuple(padded[0])


@pytest.mark.parametrize(
    "text",
    ["", "1", "1.", ".1", "1.2.3.4.5", "01.2", "1.02", "1.2a", "v1.2", "1.2\n", "1..2", "-1.2", "1.1234567890", "../1",
     "\u0967.\u0968"],
)  # fmt: skip
def test_what_is_no_version_is_older_than_any(text):
    assert not is_version(text)
    assert not is_newer(text, "0.0")
    assert is_newer("0.0", text)


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("release", {"version": "1"}),
        ("release", {"system": "Trixie"}),
        ("release", {"python": "3.01"}),
        ("release", {"python": "2.7"}),
        ("release", {"architecture": "a" * 33}),
        ("release", {"sha256": "A" * 64}),
        ("release", {"size": 0}),
        ("release", {"size": 2**29 + 1}),
        ("release", {"unpacked": 2**31 + 1}),
        ("release_offer", {"releases": ()}),
        ("release_offer", {"releases": (b"x",) * 9}),
        ("release_offer", {"attempt": 0}),
        ("release_offer", {"expires": float("inf")}),
        ("model_offer", {"run": "a b"}),
        ("model_offer", {"version": -1}),
        ("model_offer", {"promotion": 0}),
        ("model_offer", {"size": 0}),
        ("release_report", {"version": "x"}),
        ("release_report", {"offered": "1"}),
        ("release_report", {"attempt": -1}),
        ("release_report", {"status": "fine"}),
        ("release_report", {"reason": "a" * 201}),
        ("release_report", {"models": {f"r{number}": 1 for number in range(17)}}),
        ("release_report", {"models": {"a b": 1}}),
    ],
)
def test_values_out_of_range_are_refused_when_made_and_when_read(name, change):
    whole = MESSAGES[name]
    with pytest.raises(InvalidValueError):
        replace(whole, **change)
    hostile = encode(_raw(whole, change))
    with pytest.raises(ProtocolError):
        decode(hostile, type(whole))


def _raw(message, change):
    """The map of a message, with a change that nobody may make."""
    table = msgspec.msgpack.decode(encode(message))
    return {**table, **change}


def test_topics_of_releases():
    assert release("d1") == "fl/v1/down/d1/release"
    assert report("d1") == "fl/v1/up/d1/report"
    assert model("r1") == "fl/v1/cast/r1/model"
    assert parse_report("fl/v1/up/d1/report") == "d1"
    for topic in ("up/d1/report/", "up//report", "up/a/b/report", "up/report", "up/+/report"):
        with pytest.raises(ProtocolError, match="not a topic on which a device reports"):
            parse_report(f"fl/v1/{topic}")
