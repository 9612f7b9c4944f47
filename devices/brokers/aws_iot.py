"""AWS IoT Core: policies in JSON, and the commands that make a thing and register a certificate for each device.

Written after the AWS IoT Core developer guide and checked by syntax only. A thing's name is the device's name is the
MQTT client id, which is what `${iot:Connection.Thing.ThingName}` needs. Limits of the service: a payload of 128 KB,
seven slashes and 256 bytes in a topic (a slice's topic has seven), 512 KB/s and 100 publications a second on a
connection.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wire_protocol.topics import ACCESS_RULES, ROOT, SERVER_NAMES, Role

DEVICE_POLICY, SERVER_POLICY, STEPS = "device-policy.json", "server-policy.json", "register.sh"

_THING = "${iot:Connection.Thing.ThingName}"
_DEVICE_POLICY_NAME, _SERVER_POLICY_NAME = "fisherfleet-device", "fisherfleet-server"
_PLACEHOLDER_REGION, _PLACEHOLDER_ACCOUNT = "REGION", "ACCOUNT"
_RETAINED = {"device": (f"{ROOT}/state/",), "server": (f"{ROOT}/cast/", f"{ROOT}/down/")}


@dataclass(frozen=True)
class Place:
    """The region and the account that a policy is for; as they stand, `register.sh` fills them in."""

    region: str = _PLACEHOLDER_REGION
    account: str = _PLACEHOLDER_ACCOUNT

    def resource(self, kind: str, name: str) -> str:
        """An Amazon resource name."""
        return f"arn:aws:iot:{self.region}:{self.account}:{kind}/{name}"


def policy(role: Role, place: Place) -> str:
    """What a role may do, as a policy document."""
    client = _THING if role == "device" else None
    clients = [client] if client else [name for server in SERVER_NAMES for name in (server, f"{server}-*")]
    connect = _allow("iot:Connect", [place.resource("client", name) for name in clients])
    if role == "device":
        connect["Condition"] = {"Bool": {"iot:Connection.Thing.IsAttached": ["true"]}}
    rules = [rule for rule in ACCESS_RULES if rule.role == role]
    publish = [_topic(rule.filter_of(_THING)) for rule in rules if rule.access == "publish"]
    read = [rule.filter_of(_THING) for rule in rules if rule.access == "read"]
    retained = [topic for topic in publish if topic.startswith(_RETAINED[role])]
    statements = [
        connect,
        _allow("iot:Publish", [place.resource("topic", topic) for topic in publish]),
        _allow("iot:RetainPublish", [place.resource("topic", topic) for topic in retained]),
        _allow("iot:Subscribe", [place.resource("topicfilter", _topic(name)) for name in read]),
        _allow("iot:Receive", [place.resource("topic", _topic(name)) for name in read]),
    ]
    return json.dumps({"Version": "2012-10-17", "Statement": statements}, indent=2) + "\n"


def registration(certificates: Sequence[tuple[str, str]], server_certificate: str) -> str:
    """A shell script that makes policies, things and certificates; `certificates` are (device, file of `tls.pem`)."""
    lines = [
        "#!/bin/sh",
        "# Written by fisherfleet broker-config. Needs the AWS command line, signed in and with a region. Run it here.",
        "set -eu",
        "region=$(aws configure get region)",
        "account=$(aws sts get-caller-identity --query Account --output text)",
        "",
        "policy() {  # NAME FILE",
        f'  sed "s/{_PLACEHOLDER_REGION}/$region/g; s/{_PLACEHOLDER_ACCOUNT}/$account/g" "$2" > "$2.filled"',
        '  aws iot create-policy --policy-name "$1" --policy-document "file://$2.filled"',
        "}",
        "register() {  # NAME CERTIFICATE POLICY",
        '  aws iot create-thing --thing-name "$1"',
        '  arn=$(aws iot register-certificate-without-ca --certificate-pem "file://$2" --status ACTIVE \\',
        "    --query certificateArn --output text)",
        '  aws iot attach-policy --policy-name "$3" --target "$arn"',
        '  aws iot attach-thing-principal --thing-name "$1" --principal "$arn"',
        "}",
        "",
        f"policy {_DEVICE_POLICY_NAME} {DEVICE_POLICY}",
        f"policy {_SERVER_POLICY_NAME} {SERVER_POLICY}",
        f"register {SERVER_NAMES[0]} {shlex.quote(server_certificate)} {_SERVER_POLICY_NAME}",
    ]
    lines += [f"register {name} {shlex.quote(file)} {_DEVICE_POLICY_NAME}" for name, file in certificates]
    lines += [
        "",
        "echo the broker is mqtts://$(aws iot describe-endpoint --endpoint-type iot:Data-ATS --output text):8883",
        "echo in every identity/ and in server/, ca.pem must be Amazon\\'s: "
        "https://www.amazontrust.com/repository/AmazonRootCA1.pem",
    ]
    return "".join(f"{line}\n" for line in lines)


def _allow(action: str, resources: Sequence[str]) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": action, "Resource": list(resources)}


def _topic(name: str) -> str:
    """A resource's wildcard is `*`, MQTT's `#` in it is a letter like any other."""
    return name.replace("#", "*")
