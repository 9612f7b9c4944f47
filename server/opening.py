"""Open what a device sealed for the operator: the body of an update, or why it cannot be believed."""

from __future__ import annotations

from server.operator_keys import Operator
from server.registry import Registry
from server.screening import Refused
from server.uplink import Complete
from wire_protocol.envelope import Context, open_sealed
from wire_protocol.errors import ProtocolError


def open_update(complete: Complete, operator: Operator, registry: Registry) -> bytes | Refused:
    """The encoded `Update` or `Decline` that the topic's device signed and sealed for this run and round."""
    part = complete.part
    keys = registry.keys(part.device)
    if not keys:
        return Refused(f"device {part.device} is not in the fleet, or was revoked")
    context = Context("update", operator.fleet, part.run, part.round, part.device)
    try:
        return open_sealed(complete.payload, context, operator.identities, keys)
    except ProtocolError as error:
        return Refused(str(error))
