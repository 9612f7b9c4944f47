from math import inf, nan

import pytest

from edge_client.config import load_config
from edge_client.privacy.cap import Cap, read_cap
from wire_protocol.errors import InvalidValueError

LEAST = 'device = "pi"\nbroker = "mqtt://b"\nserver = "http://s"\ndata = "d.npz"\n'


def test_every_key_is_read():
    table = {"epsilon": 3, "delta": 1e-6, "public_size": True, "private_only": False}
    assert read_cap(table) == Cap(3.0, 1e-6, public_size=True, private_only=False)


@pytest.mark.parametrize(("text", "private_only"), [("", False), ("[privacy]\n", True)])
def test_without_a_word_of_the_owner_a_device_has_a_cap_and_keeps_its_size_to_itself(tmp_path, text, private_only):
    (tmp_path / "device.toml").write_text(LEAST + text)
    assert load_config(tmp_path / "device.toml").privacy == Cap(10.0, 1e-5, False, private_only)


def test_the_table_of_the_file_is_the_cap(tmp_path):
    (tmp_path / "device.toml").write_text(LEAST + "[privacy]\nepsilon = 0.5\n")
    assert load_config(tmp_path / "device.toml").privacy == Cap(epsilon=0.5, private_only=True)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("budget", 3, "key of privacy must be one of epsilon, delta, public_size, private_only, got 'budget'"),
        ("epsilon", 0, "privacy.epsilon must be a finite number above 0, got 0.0"),
        ("epsilon", -1.0, "privacy.epsilon must be a finite number above 0, got -1.0"),
        ("epsilon", inf, "privacy.epsilon must be a finite number above 0, got inf"),
        ("epsilon", nan, "privacy.epsilon must be a finite number above 0, got nan"),
        ("epsilon", 10**400, "privacy.epsilon must be a finite number above 0, got 1000"),
        ("epsilon", "10", "privacy.epsilon must be a finite number above 0, got '10'"),
        ("epsilon", True, "privacy.epsilon must be a finite number above 0, got True"),
        ("delta", 0, "privacy.delta must be a number above 0 and below 1, got 0.0"),
        ("delta", 1, "privacy.delta must be a number above 0 and below 1, got 1.0"),
        ("delta", -(10**400), "privacy.delta must be a number above 0 and below 1, got -1000"),
        ("public_size", 1, "privacy.public_size must be true or false, got 1"),
        ("private_only", "no", "privacy.private_only must be true or false, got 'no'"),
    ],
)
def test_a_wrong_value_is_refused_by_key_value_and_what_is_legal(key, value, complaint):
    with pytest.raises(InvalidValueError, match=complaint):
        read_cap({key: value})


def test_a_cap_made_in_code_is_checked_too():
    with pytest.raises(InvalidValueError, match=r"privacy\.epsilon must be a finite number above 0, got inf"):
        Cap(epsilon=inf)
