from __future__ import annotations

import pytest

from wire_protocol.broker_url import PASSWORD_VARIABLE, BrokerUrl, parse_broker_url
from wire_protocol.errors import InvalidValueError


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mqtt://broker", BrokerUrl("broker", 1883)),
        ("mqtt://broker/", BrokerUrl("broker", 1883)),
        ("mqtts://broker", BrokerUrl("broker", 8883, tls=True)),
        ("MQTT://Broker.Example:1884", BrokerUrl("broker.example", 1884)),
        ("mqtt://127.0.0.1:65535", BrokerUrl("127.0.0.1", 65535)),
        ("mqtt://[::1]", BrokerUrl("::1", 1883)),
        ("mqtts://u:p@[fe80::2]:99", BrokerUrl("fe80::2", 99, True, "u", "p")),
        ("mqtt://user@h", BrokerUrl("h", 1883, username="user")),
        ("mqtt://a%40b:p%3A%2F%25@h", BrokerUrl("h", 1883, username="a@b", password="p:/%")),
        ("mqtt://u:@h", BrokerUrl("h", 1883, username="u", password="")),
    ],
)
def test_urls_are_read(url: str, expected: BrokerUrl) -> None:
    assert parse_broker_url(url, {}) == expected


def test_the_environment_gives_the_password_as_it_is() -> None:
    environment = {PASSWORD_VARIABLE: "100%41"}
    assert parse_broker_url("mqtt://u@h", environment).password == "100%41"
    assert parse_broker_url("mqtt://u:own@h", environment).password == "own"
    assert parse_broker_url("mqtt://h", environment).password is None


@pytest.mark.parametrize(
    "url",
    [
        "",
        "broker",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt://:1883",
        "mqtt://h:0",
        "mqtt://h:-1",
        "mqtt://h:65536",
        "mqtt://h:port",
        "mqtt://[::1",
        "mqtt://h/topic",
        "mqtt://h?x=1",
        "mqtt://h#x",
        "mqtt://a b",
        "mqtt://h\n",
        "mqtt://:password@h",
    ],
)
def test_what_is_no_broker_is_refused(url: str) -> None:
    with pytest.raises(InvalidValueError, match=r"^broker"):
        parse_broker_url(url, {})


@pytest.mark.parametrize(
    "url", ["http://u:secret@h", "mqtt://u:secret@h:99999", "mqtt://u:secret@", "mqtt://u:se/secret@h"]
)
def test_no_error_shows_the_password(url: str) -> None:
    with pytest.raises(InvalidValueError) as caught:
        parse_broker_url(url, {})
    assert "se" not in str(caught.value).split("got")[1]
    assert caught.value.__cause__ is None


def test_printing_shows_no_password() -> None:
    url = parse_broker_url("mqtts://u:secret@[::1]:9", {})
    assert str(url) == "mqtts://[::1]:9"
    assert "secret" not in repr(url)
