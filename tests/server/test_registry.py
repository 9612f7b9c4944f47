import logging
import os
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server.registry import Enrolled, Registry, decode_registry, encode_registry
from wire_protocol.errors import InvalidValueError
from wire_protocol.identity import IdentityError, new_identity

OLD, NEW, OTHER = (new_identity().public for _ in range(3))


def write(path: Path, **devices: Enrolled) -> Path:
    fresh = path.with_name("fresh")
    fresh.write_bytes(encode_registry(devices))
    fresh.replace(path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "devices.json", kitchen=Enrolled((NEW, OLD)), attic=Enrolled((OTHER,), revoked=True))


def test_what_is_written_is_read() -> None:
    devices = {"b": Enrolled((NEW, OLD)), "a": Enrolled((OTHER,), revoked=True)}
    content = encode_registry(devices)
    assert decode_registry(content) == devices
    assert content == encode_registry(dict(reversed(devices.items())))
    assert content.startswith(b'{\n  "format": 1,\n  "devices": {\n    "a": {\n      "keys": [\n')


def test_keys_of_known_revoked_and_unknown_devices(path: Path) -> None:
    registry = Registry.load(path)
    assert registry.keys("kitchen") == (NEW, OLD)
    assert registry.keys("attic") == registry.keys("nobody") == ()
    assert [registry.is_revoked(name) for name in ("kitchen", "attic", "nobody")] == [False, True, False]


def test_a_device_is_revoked_and_enrolled_while_the_server_works(path: Path) -> None:
    registry = Registry.load(path)
    assert registry.keys("kitchen")
    write(path, kitchen=Enrolled((NEW,), revoked=True), cellar=Enrolled((OTHER,)))
    assert registry.keys("kitchen") == ()
    assert registry.keys("cellar") == (OTHER,)
    assert registry.is_revoked("kitchen")


@pytest.mark.parametrize("breaking", [b"{", b"", None])
def test_a_registry_that_breaks_later_changes_nothing_and_is_said_once(
    path: Path, caplog: pytest.LogCaptureFixture, breaking: bytes | None
) -> None:
    registry = Registry.load(path)
    if breaking is None:
        path.unlink()
    else:
        path.write_bytes(breaking)
    with caplog.at_level(logging.ERROR):
        for _ in range(5):
            assert registry.keys("kitchen") == (NEW, OLD)
            assert registry.is_revoked("attic")
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    write(path, kitchen=Enrolled((OTHER,)))
    assert registry.keys("kitchen") == (OTHER,)


def test_a_file_changed_in_place_within_the_same_size_is_seen(path: Path) -> None:
    registry = Registry.load(path)
    before = path.stat()
    path.write_bytes(path.read_bytes().replace(b"attic", b"antic"))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert registry.is_revoked("antic")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"[]", "not a registry"),
        (b'{"format": 1}', "devices"),
        (b'{"format": 2, "devices": {}}', "format must be 1, got 2"),
        (b'{"format": 1, "devices": {"a": {"keys": [], "revoked": false}}}', "device a: keys must be 1 to 2, got 0"),
        (b'{"format": 1, "devices": {"a/b": {"keys": []}}}', "device must be 1 to 64 letters"),
        (b'{"format": 1, "devices": {"a": {"keys": [{"verifying": "!", "sealing": ""}]}}}', "device a: public keys"),
        (b'{"format": 1, "devices": {"a": {"keys": [{"verifying": "AA==", "sealing": ""}]}}}', "verifying must be 32"),
        (b"\xff", "not a registry"),
    ],
)
def test_what_is_not_a_registry_is_refused_at_start(tmp_path: Path, content: bytes, problem: str) -> None:
    path = tmp_path / "devices.json"
    path.write_bytes(content)
    with pytest.raises(IdentityError, match=problem) as caught:
        Registry.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_registry_is_refused_at_start(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match=re.escape(f"{tmp_path / 'devices.json'} cannot be read: No such file")):
        Registry.load(tmp_path / "devices.json")


def test_three_keys_are_too_many() -> None:
    with pytest.raises(InvalidValueError, match="keys must be 1 to 2, got 3"):
        Enrolled((OLD, NEW, OTHER))


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        decode_registry(content)
    except InvalidValueError:
        return
