import re

import pytest

from edge_client.config import DeviceConfig, load_config
from edge_client.errors import ConfigError
from edge_client.processors import Processors
from wire_protocol.broker_url import BrokerUrl
from wire_protocol.errors import InvalidValueError

WHOLE = """
device = "pi-1"
broker = "mqtts://me:secret@broker.example:9000"
server = "https://server.example:8080/"
data = "examples.npz"
state = "/var/lib/fisherfleet"
identity = "keys"
outbox_mb = 5
run = "digits"
runtime = "portable"
threads = 2
provider = "cuda"
seed = 7
ca_file = "ca.pem"
"""
LEAST = {"device": '"pi-1"', "broker": '"mqtt://b"', "server": '"http://s"', "data": '"d.npz"'}


def written(folder, **changes):
    path = folder / "device.toml"
    path.write_text("\n".join(f"{key} = {value}" for key, value in {**LEAST, **changes}.items() if value is not None))
    return path


def test_every_key_is_read_and_paths_are_relative_to_the_file(tmp_path):
    (tmp_path / "ca.pem").touch()
    path = tmp_path / "device.toml"
    path.write_text(WHOLE)
    config = load_config(path)
    assert (config.device, config.run, config.runtime, config.threads, config.seed) == (
        "pi-1",
        "digits",
        "portable",
        2,
        7,
    )
    assert config.broker == BrokerUrl("broker.example", 9000, tls=True, username="me", password="secret")
    assert config.server == "https://server.example:8080"
    assert config.data == tmp_path / "examples.npz"
    assert str(config.state) == "/var/lib/fisherfleet"
    assert config.ca_file == tmp_path / "ca.pem"
    assert config.identity == tmp_path / "keys"
    assert config.outbox_mb == 5
    assert config.processors == Processors(2, (), "cuda")


def test_four_keys_are_enough(tmp_path):
    assert load_config(written(tmp_path)) == DeviceConfig(
        device="pi-1", broker=BrokerUrl("b", 1883), server="http://s", data=tmp_path / "d.npz",
        state=tmp_path / "state", identity=tmp_path / "identity", outbox_mb=64, download="auto",
        releases=tmp_path / "releases",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"colour": '"red"'}, "key must be one of device, broker, server, data, identity, state, .*, got 'colour'"),
        ({"broker": None}, "key broker is missing, expected device, broker, server, data"),
        ({"device": '"a/b"'}, "device must be 1 to 64 letters, .*, got 'a/b'"),
        ({"device": "3"}, "device must be a string, got 3"),
        ({"run": '"a b"'}, "run must be 1 to 64 letters, .*, got 'a b'"),
        ({"broker": '"http://b"'}, "broker must be mqtt://.*, got 'http://b'"),
        ({"server": '"ftp://s"'}, "server must be http://.*, got 'ftp://s'"),
        ({"server": '"http://s:port"'}, "server must be http://.*, got 'http://s:port'"),
        ({"data": '""'}, "data must be a path, got ''"),
        ({"runtime": '"cuda"'}, "runtime must be one of auto, portable, ort-training, got 'cuda'"),
        ({"runtime": '""'}, "runtime must be one of auto, portable, ort-training, got ''"),
        ({"download": '"ftp"'}, "download must be one of auto, http, mqtt, got 'ftp'"),
        ({"threads": "0"}, 'threads must be 1 to 256, or "auto", got 0'),
        ({"threads": '"all"'}, "threads must be an integer, got 'all'"),
        ({"provider": '"gpu"'}, "provider must be one of auto, cpu, cuda, tensorrt, got 'gpu'"),
        ({"provider": '"cuda"', "runtime": '"ort-training"'}, "provider must be cpu with ort-training, .*"),
        ({"threads": "true"}, "threads must be an integer, got True"),
        ({"seed": "-1"}, "seed must be at least 0, got -1"),
        ({"outbox_mb": "0"}, "outbox_mb must be 1 to 1000000, got 0"),
        ({"identity": '""'}, "identity must be a path, got ''"),
        ({"seed": "1.5"}, "seed must be an integer, got 1.5"),
        ({"ca_file": '"none.pem"'}, "ca_file must be a file with certificates, got '.*none.pem'"),
        ({"device": "'"}, "cannot be read as TOML"),
        ({"limits": "3"}, r"limits must be a table \[limits\], got 3"),
        ({"limits": "{memory_mb = 0}"}, "limits.memory_mb must be above 0, got 0.0"),
        ({"limits": "{}", "runtime": '"ort-training"'}, r"runtime must be auto or portable with \[limits\], .*"),
        ({"privacy": "3"}, r"privacy must be a table \[privacy\], got 3"),
        ({"privacy": "{epsilon = 0}"}, "privacy.epsilon must be a finite number above 0, got 0.0"),
        ({"data": r'"a\u0000b"'}, "data must be a path"),
        ({"device": "[" * 5000}, "cannot be read as TOML"),
        ({"seed": "9" * 5000}, "cannot be read as TOML"),
    ],
)
def test_a_wrong_file_is_refused_by_file_field_value_and_what_is_legal(tmp_path, changes, complaint):
    path = written(tmp_path, **changes)
    with pytest.raises(ConfigError, match=f"^{re.escape(str(path))}:? {complaint}"):
        load_config(path)


def test_a_missing_file_and_bytes_that_are_not_text_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.toml does not exist"):
        load_config(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.toml cannot be read as TOML"):
        load_config(tmp_path / "binary.toml")


def test_a_config_made_in_code_is_checked_too(tmp_path):
    with pytest.raises(InvalidValueError, match='threads must be 1 to 256, or "auto", got 999'):
        DeviceConfig("pi", BrokerUrl("b", 1), "http://s", tmp_path, tmp_path, tmp_path, threads=999)
