import re
from pathlib import Path

import pytest

from server.operator_keys import Operator, load_operator
from wire_protocol.identity import Fleet, IdentityError, encode_fleet, new_identity, save_identities


def fleet_folder(folder: Path, *identities: object, pinned: tuple) -> Path:
    save_identities(folder / "operator.key", identities)
    (folder / "fleet.json").write_bytes(encode_fleet(Fleet("home", tuple(one.public for one in pinned))))
    return folder


def test_the_fleet_and_the_keys_are_read(tmp_path: Path) -> None:
    new, old = new_identity(), new_identity()
    operator = load_operator(fleet_folder(tmp_path, new, old, pinned=(new, old)))
    assert operator.fleet == "home"
    assert [identity.public for identity in operator.identities] == [new.public, old.public]
    assert "Identity(" in repr(operator)


def test_keys_that_no_device_pins_are_refused(tmp_path: Path) -> None:
    folder = fleet_folder(tmp_path, new_identity(), pinned=(new_identity(),))
    with pytest.raises(IdentityError, match=r"holds no key that .* names, so no device would believe it"):
        load_operator(folder)


def test_a_key_half_way_through_a_change_is_enough(tmp_path: Path) -> None:
    new, old = new_identity(), new_identity()
    assert load_operator(fleet_folder(tmp_path, new, old, pinned=(old,))).identities[0].public == new.public


def test_without_a_fleet_the_command_that_makes_one_is_named(tmp_path: Path) -> None:
    expected = f"there is no fleet in {tmp_path}: make one with `fisherfleet fleet init {tmp_path}`"
    with pytest.raises(IdentityError, match=re.escape(expected)):
        load_operator(tmp_path)


def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    identity = new_identity()
    folder = fleet_folder(tmp_path, identity, pinned=(identity,))
    (folder / "operator.key").chmod(0o640)
    with pytest.raises(IdentityError, match="chmod 600"):
        load_operator(folder)


def test_an_operator_has_one_or_two_identities() -> None:
    with pytest.raises(IdentityError, match="1 to 2 identities, got 0"):
        Operator("home", ())
