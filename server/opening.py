"""Open what a device sealed for the operator: the body of an update, or why it cannot be believed. Total.

The device is the one the topic named. The payload must bear a signature of one of its keys over this fleet, run, round
and device; so neither another device nor the broker can make an update that opens.
"""

from __future__ import annotations

from server.operator_keys import Operator
from server.registry import Registry
from server.screening import Refused
from server.uplink import Complete
from wire_protocol.envelope import Context, open_sealed
from wire_protocol.errors import ProtocolError


def open_update(complete: Complete, operator: Operator, registry: Registry) -> bytes | Refused:
    """The encoded `Update` or `Decline` that the device signed and sealed for this run and round."""
    part = complete.part
    keys = registry.keys(part.device)
    if not keys:
        return stranger(part.device, registry)
    context = Context("update", operator.fleet, part.run, part.round, part.device)
    try:
        return open_sealed(complete.payload, context, operator.identities, keys)
    except ProtocolError as error:
        return Refused(str(error), "not-opened")


def stranger(device: str, registry: Registry) -> Refused:
    """Why a device without valid keys is refused."""
    if registry.is_revoked(device):
        return Refused(f"device {device} was revoked by the operator", "stranger")
    return Refused(f"device {device} is not enrolled in this fleet", "stranger")
