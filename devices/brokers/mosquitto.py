"""Mosquitto's configuration (mosquitto.conf(5), 2.0 and later) with the settings that lose nothing without a word.

Measured on 2.0.11: above `message_size_limit`, and when a queue is full, a message is acknowledged and dropped; above
`max_packet_size` its sender is disconnected, which it notices. A subscription that no rule allows is granted and
delivers nothing. SIGHUP reads certificates, rules and the revocation list again.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from devices.brokers.needs import (
    INFLIGHT_MESSAGES,
    MAX_PACKET_BYTES,
    QUEUED_BYTES,
    QUEUED_MESSAGES,
    UPTIME_TOPICS,
)
from wire_protocol.topics import ACCESS_RULES, SERVER_NAMES, AccessRule

CONFIGURATION, RULES = "mosquitto.conf", "acl"
AUTOSAVE_SECONDS = 30

_ACCESS = {"publish": "write", "read": "read"}
_USER_NAME = "%u"


def configuration(place: PurePath, data: PurePath, port: int) -> str:
    """`mosquitto.conf` for a broker that finds its files in the folder `place` and keeps its own in `data`."""
    lines = [
        "# Written by fisherfleet broker-config. After a change of certificates or of crl.pem: kill -HUP",
        "allow_anonymous false",
        f"acl_file {place / RULES}",
        "",
        f"listener {port}",
        f"cafile {place / 'ca.pem'}",
        f"certfile {place / 'tls.pem'}",
        f"keyfile {place / 'tls.key'}",
        f"crlfile {place / 'crl.pem'}",
        "tls_version tlsv1.2",
        "require_certificate true",
        "use_identity_as_username true",
        "# nobody takes over the connection of another; so one `fisherfleet serve` at a time",
        "use_username_as_clientid true",
        "",
        "# a larger message disconnects its sender; message_size_limit would drop it and say nothing",
        f"max_packet_size {MAX_PACKET_BYTES}",
        "# beyond these, messages to a slow reader are dropped and nobody is told",
        f"max_queued_messages {QUEUED_MESSAGES}",
        f"max_queued_bytes {QUEUED_BYTES}",
        f"max_inflight_messages {INFLIGHT_MESSAGES}",
        "",
        "# plans and states survive a restart; a power cut costs what came after the last save",
        "persistence true",
        f"persistence_location {data}/",
        f"autosave_interval {AUTOSAVE_SECONDS}",
        "autosave_on_changes false",
        "retain_available true",
        "set_tcp_nodelay true",
        "log_dest stderr",
        "log_timestamp_format %Y-%m-%dT%H:%M:%S",
    ]
    return _text(lines)


def access_rules() -> str:
    """The file `acl`: each server's lines by name, each device's by pattern, where %u is the certificate's name."""
    servers = [_line("topic", rule, "") for rule in ACCESS_RULES if rule.role == "server"]
    servers += [f"topic read {topic}" for topic in UPTIME_TOPICS]
    lines: list[str] = []
    for name in SERVER_NAMES:
        lines += [f"user {name}", *servers, ""]
    lines += ["# every device, by the name in its certificate"]
    lines += [_line("pattern", rule, _USER_NAME) for rule in ACCESS_RULES if rule.role == "device"]
    return _text(lines)


def _line(keyword: str, rule: AccessRule, device: str) -> str:
    return f"{keyword} {_ACCESS[rule.access]} {rule.filter_of(device)}"


def _text(lines: Sequence[str]) -> str:
    return "".join(f"{line}\n" for line in lines)
