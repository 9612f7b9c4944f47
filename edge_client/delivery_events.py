"""What can happen to the parcels in a device's outbox, and what their state machine can ask for: frozen values, no I/O.

Events carry moment and chance as those of a round do (`round_events.Event`), and time passes by the same `Tick`.
"""

from __future__ import annotations

from dataclasses import dataclass

from edge_client.outbox import Parcel
from edge_client.round_events import Event
from wire_protocol.messages import Need, Receipt


@dataclass(frozen=True, kw_only=True)
class Connected(Event):
    """The link to the broker is up and subscribed."""


@dataclass(frozen=True, kw_only=True)
class Disconnected(Event):
    """The link to the broker is lost."""


@dataclass(frozen=True, kw_only=True)
class Added(Event):
    """A parcel is in the outbox."""

    parcel: Parcel


@dataclass(frozen=True, kw_only=True)
class Removed(Event):
    """A parcel is not in the outbox any more: it made room for a newer one, or its file is damaged."""

    parcel: Parcel


@dataclass(frozen=True, kw_only=True)
class NeedArrived(Event):
    """The server has room for chunks of a payload."""

    need: Need


@dataclass(frozen=True, kw_only=True)
class ReceiptArrived(Event):
    """The server's last word on a payload."""

    receipt: Receipt


@dataclass(frozen=True, kw_only=True)
class Transmitted(Event):
    """What was last asked to be sent has left, or was lost."""


@dataclass(frozen=True)
class Announce:
    """Send the manifest of a parcel; answer `Transmitted`."""

    parcel: Parcel


@dataclass(frozen=True)
class SendChunks:
    """Send these chunks of a parcel; answer `Transmitted`."""

    parcel: Parcel
    chunks: tuple[int, ...]


@dataclass(frozen=True)
class Settle:
    """The receipt for a parcel is here: remember what it says and let the parcel go."""

    parcel: Parcel
    receipt: Receipt


Command = Announce | SendChunks | Settle
"""`Announce` and `SendChunks` come one at a time: the next follows `Transmitted`."""
