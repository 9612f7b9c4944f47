"""What the server remembers: frozen values as they stand in the database and in the interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from server.run_status import RunStatus
from wire_protocol.messages import RoundPlan


@dataclass(frozen=True)
class RunRecord:
    """A run: its bundle's id, its configuration (`RunConfig` as a mapping), and the rounds closed so far.

    `started` is when it was created, in seconds since the Unix epoch. `reason` says why the run failed; it is empty
    where it did not.
    """

    run: str
    bundle: str
    started: float
    config: Mapping[str, Any]
    rounds_closed: int = 0
    status: RunStatus = "created"
    reason: str = ""


@dataclass(frozen=True)
class OrdersRecord:
    """What a run was ordered and has yet to do: a resync, and the archived version that the next round starts from.

    `rolled_back` is the last version that a roll back made, 0 before any.
    """

    resync_due: bool = False
    roll_back_to: int | None = None
    rolled_back: int = 0


NO_ORDERS = OrdersRecord()


@dataclass(frozen=True)
class RoundRecord:
    """A closed round.

    `accuracy` in [0, 1], None for regression, and mean `loss` are of the new model on held-out examples, None without
    any. Of the updates accepted, `updates_late` are of earlier rounds; `updates_rejected` counts devices that declined,
    too. Bytes are payloads since the round before was closed; `*_dense` is what float32 full models would have cost for
    the accepted updates. `*_macs` are multiply-accumulates (see `compute_account`). `model_version` is the version this
    round made. `seconds` is from opening to closing, evaluation included.
    """

    round: int
    resync: bool
    accuracy: float | None
    loss: float | None
    updates_accepted: int
    updates_rejected: int
    bytes_up: int
    bytes_down: int
    bytes_up_dense: int
    bytes_down_dense: int
    trained_macs: int
    scored_macs: int
    full_macs: int
    seconds: float
    model_version: int
    updates_late: int = 0


@dataclass(frozen=True)
class CarriedRecord:
    """What a closed round says for the plans of those after it, as in `Model`; a ranking only if it was a resync."""

    ranking: Mapping[str, bytes] = field(default_factory=dict)
    clip_norm: float | None = None


NOTHING_CARRIED = CarriedRecord()


@dataclass(frozen=True)
class ModelVersionRecord:
    """An archived version of a run's model: the round that made it, at which time, and how good it is.

    `at` is in seconds since the Unix epoch, `size` the bytes of its safetensors file, `sha256` that file's
    (hexadecimal). `accuracy` and `loss` are as in `RoundRecord`. The `promoted` one is for inference.
    """

    version: int
    round: int
    at: float
    accuracy: float | None
    loss: float | None
    sha256: str
    size: int
    promoted: bool = False


@dataclass(frozen=True)
class DeviceRecord:
    """A device as it was last heard: `kept` is the width of each neuron group in its last counted update.

    `last_seen` is in seconds since the Unix epoch. `conflicts` counts announcements of other updates in rounds for
    which one of this device was counted: a copied key, a device restored from a backup, or a broker that plays tricks.
    `release` and what follows are as in `DeviceState`.
    """

    id: str
    online: bool
    examples: int
    runtime: str
    client: str
    last_seen: float
    kept: Mapping[str, int] = field(default_factory=dict)
    conflicts: int = 0
    release: str = ""
    temperature: float | None = None
    throttled: bool = False
    paused: str = ""
    budget_left: float | None = None
    free_mb: int | None = None


@dataclass(frozen=True)
class FleetHealth:
    """Of devices online: how many sit out now or are throttled, the highest temperature, in degrees Celsius, and the
    least epsilon left to any; None where none says.
    """

    paused: int = 0
    throttled: int = 0
    hottest: float | None = None
    least_budget: float | None = None


@dataclass(frozen=True)
class OpeningRecord:
    """A round that was opened: the plan as it stands now, and who was online then.

    `opened` is in seconds since the Unix epoch.
    """

    plan: RoundPlan
    expected: frozenset[str]
    opened: float


@dataclass(frozen=True)
class UpdateRecord:
    """A counted update: who made it in which round, the SHA-256 of its sealed payload (32 bytes), where its opened body
    stands in a segment of the spool, and the round that it is counted in, whose segment that is: a later one if it came
    late.
    """

    run: str
    round: int
    device: str
    sha256: bytes
    offset: int
    length: int
    counted_in: int


@dataclass(frozen=True)
class RefusalRecord:
    """The last update of a device that was opened and refused in a round, and why; `cause` as in `Refused`."""

    run: str
    round: int
    device: str
    sha256: bytes
    reason: str
    cause: str


@dataclass(frozen=True)
class FaultRecord:
    """A round in which a device's own update was an outlier, or refused for a cause that is a fault, and why."""

    run: str
    round: int
    device: str
    reason: str


@dataclass(frozen=True)
class QuarantineRecord:
    """A device is held, or was until an operator released it: since which round of which run, and why.

    `at` is in seconds since the Unix epoch. Held by an operator, `run` is empty and `round` 0.
    """

    device: str
    run: str
    round: int
    at: float
    reason: str
    held: bool = True


@dataclass(frozen=True)
class ConflictRecord:
    """Another update than the one counted was announced for a device and round; `sha256` is the last such."""

    run: str
    round: int
    device: str
    sha256: bytes
    times: int = 1


@dataclass(frozen=True)
class Selection:
    """What a device kept in a counted update, as bitmaps by neuron group, and the widths that they have.

    `round` is that of the update, `resync_round` the one in which the neurons were chosen.
    """

    device: str
    round: int
    resync_round: int
    kept: Mapping[str, bytes]
    widths: Mapping[str, int]


@dataclass(frozen=True)
class LedgerRecord:
    """What the update with this SHA-256 tells of its device's privacy ledger: see `LedgerMark`."""

    device: str
    count: int
    head: bytes
    sha256: bytes


@dataclass(frozen=True)
class Batch:
    """What is to be made durable at once: counted updates with the selections they used and what they tell of ledgers,
    and refusals.

    `now` is in seconds since the Unix epoch.
    """

    updates: tuple[UpdateRecord, ...]
    selections: tuple[Selection, ...]
    refusals: tuple[RefusalRecord, ...]
    now: float
    ledgers: tuple[LedgerRecord, ...] = ()
