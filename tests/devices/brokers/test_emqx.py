"""EMQX's files, which no EMQX is here to read: their syntax, and what the rules allow, by a reading of our own."""

import re
from datetime import UTC, datetime
from pathlib import Path

import pytest
from paho.mqtt.client import topic_matches_sub

from devices.brokers.__main__ import main
from server.fleet.membership import revoke_device
from wire_protocol import topics
from wire_protocol.topics import Part

TEXT = r'"[^"\\]*"'
WHO = rf"(?:all|\{{username, {TEXT}\}})"
RULE = re.compile(rf"\{{(allow|deny), ({WHO})(?:, (publish|subscribe|all), \[({TEXT}(?:, {TEXT})*)\])?\}}\.")


@pytest.fixture
def written(fleet, tmp_path) -> Path:
    revoke_device(fleet, "garden", datetime.now(UTC))
    out = tmp_path / "emqx"
    assert main(["emqx", "--fleet", str(fleet.path), "--out", str(out), "--install-path", "/etc/emqx/fleet"]) == 0
    return out


def decide(rules: str, user: str, action: str, topic: str) -> bool:
    """What EMQX documents: the first rule that fits decides."""
    for line in rules.splitlines():
        if line.startswith("%%"):
            continue
        found = RULE.fullmatch(line)
        assert found is not None, line
        permission, who, wanted, listed = found.groups()
        if listed is None:
            return permission == "allow"
        filters = [text.strip('"').replace("${username}", user) for text in listed.split(", ")]
        fits = who == "all" or f'"{user}"' in who
        if fits and wanted in (action, "all") and any(topic_matches_sub(name, topic) for name in filters):
            return permission == "allow"
    raise AssertionError("the rules end without a decision")


def test_rules_say_the_same_as_the_table(written):
    rules = (written / "acl.conf").read_text()
    up, down = topics.uplink(Part("kitchen", "r", 1, None)), topics.slice_(Part("kitchen", "r", 1, 0))
    for user, action, topic, expected in [
        ("kitchen", "publish", up, True),
        ("kitchen", "publish", topics.state("kitchen"), True),
        ("kitchen", "subscribe", topics.downlink_filter("kitchen"), True),
        ("kitchen", "subscribe", topics.plan("+"), True),
        ("kitchen", "publish", down, False),
        ("kitchen", "publish", topics.plan("r"), False),
        ("attic", "publish", up, False),
        ("attic", "subscribe", topics.downlink_filter("kitchen"), False),
        ("attic", "subscribe", topics.UPLINK_FILTER, False),
        ("attic", "subscribe", "#", False),
        ("server", "subscribe", topics.UPLINK_FILTER, True),
        ("server", "subscribe", topics.STATE_FILTER, True),
        ("server", "publish", down, True),
        ("server", "publish", topics.plan("r"), True),
        ("server", "publish", up, False),
        ("doctor", "publish", topics.plan("r"), True),
    ]:
        assert decide(rules, user, action, topic) is expected, (user, action, topic)


def test_a_revoked_device_may_nothing(written):
    rules = (written / "acl.conf").read_text()
    assert not decide(rules, "garden", "publish", topics.state("garden"))
    assert not decide(rules, "garden", "subscribe", topics.downlink_filter("garden"))


def test_the_configuration_is_balanced_and_demands_certificates(written):
    lines = [line.strip() for line in (written / "emqx.conf").read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    depth = 0
    for line in lines:
        assert re.fullmatch(r"[a-z_.]+ = .+|[a-z_.]+ ?(= )?[\[{]|[\[{\]}]", line), line
        depth += sum(line.count(sign) for sign in "{[" if not line.endswith("]")) if line[-1] in "{[" else 0
        depth -= line in ("}", "]")
    assert depth == 0
    assert {
        "verify = verify_peer",
        "fail_if_no_peer_cert = true",
        "peer_cert_as_username = cn",
        "peer_cert_as_clientid = cn",
        "no_match = deny",
        'path = "/etc/emqx/fleet/acl.conf"',
        "max_packet_size = 256KB",
    } <= set(lines)
