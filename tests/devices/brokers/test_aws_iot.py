"""Policies for AWS IoT, which nobody here can run: their form, and that they say what the table says."""

import fnmatch
import json
import subprocess
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devices.brokers.__main__ import main
from devices.brokers.aws_iot import Place, policy
from server.fleet.membership import revoke_device
from wire_protocol import topics
from wire_protocol.topics import Part

PREFIX = "arn:aws:iot:eu-west-1:123456789012"
THING = "${iot:Connection.Thing.ThingName}"
PLACE = Place("eu-west-1", "123456789012")
ACTIONS = {"iot:Connect", "iot:Publish", "iot:RetainPublish", "iot:Subscribe", "iot:Receive"}
LONGEST = "x" * 64


def may(role: str, device: str, action: str, resource: str) -> bool:
    statements = json.loads(policy(role, PLACE))["Statement"]
    wanted = [
        name.replace(THING, device)
        for one in statements
        if one["Action"] == f"iot:{action}"
        for name in one["Resource"]
    ]
    return any(fnmatch.fnmatchcase(f"{PREFIX}:{resource}", name) for name in wanted)


@pytest.mark.parametrize("role", ["device", "server"])
def test_a_policy_has_the_form_that_aws_documents(role):
    document = json.loads(policy(role, PLACE))
    assert document["Version"] == "2012-10-17"
    assert {one["Action"] for one in document["Statement"]} == ACTIONS
    for one in document["Statement"]:
        assert set(one) - {"Condition"} == {"Effect", "Action", "Resource"}
        assert one["Effect"] == "Allow"
        kind = {"Connect": "client", "Subscribe": "topicfilter"}.get(one["Action"][4:], "topic")
        assert all(name.startswith(f"{PREFIX}:{kind}/") and "#" not in name for name in one["Resource"])


def test_policies_say_the_same_as_the_table():
    up, down = topics.uplink(Part("kitchen", "r", 1, 0)), topics.slice_(Part("kitchen", "r", 1, 0))
    for role, action, resource, expected in [
        ("device", "Connect", "client/kitchen", True),
        ("device", "Connect", "client/garden", False),
        ("device", "Publish", f"topic/{up}", True),
        ("device", "Publish", f"topic/{topics.state('kitchen')}", True),
        ("device", "RetainPublish", f"topic/{topics.state('kitchen')}", True),
        ("device", "RetainPublish", f"topic/{up}", False),
        ("device", "Publish", f"topic/{topics.state('garden')}", False),
        ("device", "Publish", f"topic/{topics.plan('r')}", False),
        ("device", "Subscribe", f"topicfilter/{topics.downlink_filter('kitchen')}", True),
        ("device", "Subscribe", f"topicfilter/{topics.plan('+')}", True),
        ("device", "Subscribe", f"topicfilter/{topics.downlink_filter('garden')}", False),
        ("device", "Subscribe", f"topicfilter/{topics.UPLINK_FILTER}", False),
        ("device", "Receive", f"topic/{down}", True),
        ("server", "Connect", "client/server-run-1", True),
        ("server", "Connect", "client/kitchen", False),
        ("server", "Subscribe", f"topicfilter/{topics.UPLINK_FILTER}", True),
        ("server", "Subscribe", f"topicfilter/{topics.STATE_FILTER}", True),
        ("server", "RetainPublish", f"topic/{topics.plan('r')}", True),
        ("server", "RetainPublish", f"topic/{topics.model('r')}", True),
        ("server", "RetainPublish", f"topic/{topics.release('kitchen')}", True),
        ("device", "Publish", f"topic/{topics.report('kitchen')}", True),
        ("device", "Publish", f"topic/{topics.report('garden')}", False),
        ("device", "Subscribe", f"topicfilter/{topics.model('+')}", True),
        ("server", "Publish", f"topic/{down}", True),
        ("server", "Publish", f"topic/{up}", False),
    ]:
        assert may(role, "kitchen", action, resource) is expected, (role, action, resource)


@given(number=st.integers(1, topics.MAX_NUMBER), chunk=st.none() | st.integers(0, topics.MAX_NUMBER))
def test_the_longest_topics_keep_within_256_bytes_and_seven_slashes(number, chunk):
    part = Part(LONGEST, LONGEST, number, chunk)
    for topic in (topics.uplink(part), topics.slice_(part), topics.state(LONGEST), topics.plan(LONGEST)):
        assert len(topic) <= 256
        assert topic.count("/") <= 7


def test_the_script_registers_the_server_and_every_device_that_is_not_revoked(fleet, tmp_path):
    revoke_device(fleet, "garden", datetime.now(UTC))
    out = tmp_path / "aws"
    assert main(["aws-iot", "--fleet", str(fleet.path), "--out", str(out)]) == 0
    script = (out / "register.sh").read_text()
    subprocess.run(["sh", "-n", out / "register.sh"], check=True)
    registered = [line.split()[1] for line in script.splitlines() if line.startswith("register ")]
    assert registered == ["server", "kitchen"]
    assert "PRIVATE" not in "".join(path.read_text() for path in out.iterdir())


def test_the_script_fills_in_region_and_account_and_makes_valid_documents(fleet, tmp_path):
    """With a stand-in for the AWS command line that notes what it is asked."""
    out, tools = tmp_path / "aws", tmp_path / "tools"
    assert main(["aws-iot", "--fleet", str(fleet.path), "--out", str(out)]) == 0
    tools.mkdir()
    notes = tmp_path / "notes"
    (tools / "aws").write_text(
        f'#!/bin/sh\necho "$@" >> {notes}\ncase "$1 $2" in "configure get") echo eu-west-1;; '
        '"sts get-caller-identity") echo 123456789012;; *) echo arn:aws:iot:made-up;; esac\n'
    )
    (tools / "aws").chmod(0o755)
    subprocess.run(
        ["sh", "./register.sh"], cwd=out, check=True, capture_output=True, env={"PATH": f"{tools}:/usr/bin:/bin"}
    )
    assert json.loads((out / "device-policy.json.filled").read_text()) == json.loads(policy("device", PLACE))
    asked = notes.read_text().splitlines()
    assert sum(line.startswith("iot register-certificate-without-ca") for line in asked) == 3
    assert sum(line.startswith("iot attach-thing-principal") for line in asked) == 3
