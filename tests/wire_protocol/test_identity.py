"""Key files and fleet files: what is written is read, what is unsafe or broken is refused by name."""

from pathlib import Path

import pytest

from wire_protocol.errors import InvalidValueError
from wire_protocol.identity import (
    Fleet,
    IdentityError,
    PublicKeys,
    encode_fleet,
    load_fleet,
    load_identities,
    new_identity,
    save_identities,
)


def test_identities_survive_their_file(tmp_path: Path) -> None:
    newer, older = new_identity(), new_identity()
    save_identities(tmp_path / "device.key", [older])
    save_identities(tmp_path / "device.key", [newer, older])
    loaded = load_identities(tmp_path / "device.key")
    assert [identity.public for identity in loaded] == [newer.public, older.public]


def test_a_key_file_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    save_identities(path, [new_identity()])
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_identities(path)


@pytest.mark.parametrize(
    "content", [b"", b"nonsense", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_broken_key_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "device.key"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(IdentityError, match=r"device\.key"):
        load_identities(path)


def test_half_a_pair_and_swapped_keys_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "device.key"
    save_identities(path, [new_identity()])
    end = b"-----END PRIVATE KEY-----\n"
    signing, opening, _ = path.read_bytes().split(end)
    for content in (signing + end, opening + end + signing + end):
        path.write_bytes(content)
        with pytest.raises(IdentityError, match="pairs"):
            load_identities(path)


def test_a_missing_key_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="No such file"):
        load_identities(tmp_path / "device.key")


def test_a_key_is_never_printed() -> None:
    identity = new_identity()
    assert identity.signing.private_bytes_raw().hex() not in repr(identity)
    assert repr(identity) == f"Identity({identity.public.key_id.hex()})"


def test_a_fleet_survives_its_file(tmp_path: Path) -> None:
    fleet = Fleet("home", (new_identity().public, new_identity().public))
    (tmp_path / "fleet.json").write_bytes(encode_fleet(fleet))
    assert load_fleet(tmp_path / "fleet.json") == fleet


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{}", "format"),
        (b'{"format": 2, "fleet": "home", "operator": []}', "format must be 1"),
        (b'{"format": 1, "fleet": "home", "operator": []}', "operator keys must be 1 to 2"),
        (b'{"format": 1, "fleet": "no/name", "operator": []}', "fleet must be"),
        (b'{"format": 1, "fleet": "home", "operator": [{"verifying": "!", "sealing": "AA=="}]}', "base64"),
        (b'{"format": 1, "fleet": "home", "operator": [{"verifying": "AA==", "sealing": "AA=="}]}', "32 bytes"),
        (b"\xff", "not a fleet file"),
        (b" " * 16_385, "size must be at most 16384"),
    ],
)
def test_a_broken_fleet_file_is_explained(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "fleet.json").write_bytes(content)
    with pytest.raises(IdentityError, match=reason):
        load_fleet(tmp_path / "fleet.json")


@pytest.mark.parametrize("point", [bytes(32), b"\1" + bytes(31), (2**255 - 20).to_bytes(32, "little")])
def test_keys_that_nothing_can_be_sealed_for_are_refused(tmp_path: Path, point: bytes) -> None:
    """Points of small order, RFC 7748, section 6.1."""
    keys = PublicKeys(new_identity().public.verifying, point)
    (tmp_path / "fleet.json").write_bytes(encode_fleet(Fleet("home", (keys,))))
    with pytest.raises(IdentityError, match="public keys must be base64 of keys"):
        load_fleet(tmp_path / "fleet.json")


def test_public_keys_have_their_length() -> None:
    with pytest.raises(InvalidValueError, match="sealing"):
        PublicKeys(bytes(32), bytes(31))
