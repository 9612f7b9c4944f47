"""EMQX 5: a listener and limits in HOCON (`emqx.conf`) and access rules as Erlang terms (`acl.conf`).

Written after EMQX's documentation of 5.8 and checked by syntax only. EMQX fetches revocation lists from an address
inside certificates and reads no file, so revoked devices are refused by a rule of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from devices.brokers.needs import INFLIGHT_MESSAGES, MAX_PACKET_BYTES, QUEUED_MESSAGES, UPTIME_TOPICS
from wire_protocol.topics import ACCESS_RULES, SERVER_NAMES, Access

CONFIGURATION, RULES = "emqx.conf", "acl.conf"

_ACCESS: dict[Access, str] = {"publish": "publish", "read": "subscribe"}
_USER_NAME = "${username}"

_CONFIGURATION = """\
# Written by fisherfleet broker-config: append this to EMQX's own etc/emqx.conf, whose node and cluster settings stay.
# A plain listener without certificates would be a way around all of this.
listeners.tcp.default.enable = false
listeners.ws.default.enable = false
listeners.wss.default.enable = false

listeners.ssl.default {{
  bind = "0.0.0.0:{port}"
  ssl_options {{
    cacertfile = "{place}/ca.pem"
    certfile = "{place}/tls.pem"
    keyfile = "{place}/tls.key"
    versions = ["tlsv1.3", "tlsv1.2"]
    verify = verify_peer
    fail_if_no_peer_cert = true
  }}
}}

mqtt {{
  # the name in the certificate is user name and client id, whatever a client says
  peer_cert_as_username = cn
  peer_cert_as_clientid = cn
  max_packet_size = {packet_kb}KB
  # beyond this, messages to a slow reader are dropped and nobody is told
  max_mqueue_len = {queued}
  max_inflight = {inflight}
  max_qos_allowed = 2
  retain_available = true
  wildcard_subscription = true
}}

retainer {{
  enable = true
  max_payload_size = {packet_kb}KB
  backend {{
    type = built_in_database
    # plans and states survive a restart
    storage_type = disc
  }}
}}

authorization {{
  no_match = deny
  deny_action = ignore
  cache.enable = true
  sources = [
    {{
      type = file
      enable = true
      path = "{place}/{rules}"
    }}
  ]
}}
"""


def configuration(place: PurePath, port: int) -> str:
    """What to add to `emqx.conf` for a broker that finds its files in the folder `place`."""
    return _CONFIGURATION.format(
        place=place,
        port=port,
        rules=RULES,
        packet_kb=MAX_PACKET_BYTES // 1024,
        queued=QUEUED_MESSAGES,
        inflight=INFLIGHT_MESSAGES,
    )


def access_rules(revoked: Sequence[str]) -> str:
    """The file `acl.conf`; the first rule that fits decides. `revoked` names devices that may do nothing."""
    lines = ["%% Written by fisherfleet broker-config. The first rule that fits decides."]
    lines += [f'{{deny, {{username, "{name}"}}, all, ["#"]}}.' for name in revoked]
    for name in SERVER_NAMES:
        for access in _ACCESS:
            filters = [rule.filter for rule in ACCESS_RULES if (rule.role, rule.access) == ("server", access)]
            extra = UPTIME_TOPICS if access == "read" else ()
            lines.append(_rule(f'{{username, "{name}"}}', access, (*filters, *extra)))
    for access in _ACCESS:
        filters = [
            rule.filter_of(_USER_NAME) for rule in ACCESS_RULES if (rule.role, rule.access) == ("device", access)
        ]
        lines.append(_rule("all", access, filters))
    lines.append("{deny, all}.")
    return "".join(f"{line}\n" for line in lines)


def _rule(who: str, access: Access, filters: Sequence[str]) -> str:
    quoted = ", ".join(f'"{one}"' for one in filters)
    return f"{{allow, {who}, {_ACCESS[access]}, [{quoted}]}}."
