"""What a run did, as `report.json`: its configuration, rounds, devices and totals.

The keys are stable: programs may rely on them, later versions only add. Bytes are those of MQTT and HTTP payloads
really sent; `*_dense` is what whole float32 models would have cost for the same exchanges. Reading is strict in types
and ranges, and ignores keys it does not know.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from devices.errors import ReportError
from server.privacy.run_words import NOT_PRIVATE

REPORT_NAME = "report.json"
Count = Annotated[int, Meta(ge=0)]
Number = Annotated[int, Meta(ge=1)]
NotNegative = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]


class RunConfig(Struct, frozen=True, kw_only=True):
    """What was asked for. `keep` is the largest fraction of neurons kept; `group_sizes` the neurons of whole groups.

    `buffer_goal` is how many updates closed a round of a buffered run, None for a synchronous one.
    """

    devices: Number
    rounds: Number
    keep: Annotated[float, Meta(gt=0, le=1)]
    resync_every: Number
    seed: Count
    dataset: str
    model: str
    buffer_goal: Number | None = None
    privacy: str = NOT_PRIVATE
    group_sizes: dict[str, Number] = {}


class RoundEntry(Struct, frozen=True, kw_only=True):
    """One closed round; `accuracy` and `loss` are those of the new model on the test set, None where not measured.

    Of `updates_accepted`, `updates_late` are of earlier rounds.
    """

    round: Number
    accuracy: Share | None
    loss: float | None
    updates_accepted: Count
    bytes_up: Count
    bytes_down: Count
    bytes_up_dense: Count
    bytes_down_dense: Count
    resync: bool
    updates_late: Count = 0


class DeviceEntry(Struct, frozen=True, kw_only=True):
    """One device: how many neurons of each group it kept last, and how many training examples it holds."""

    id: str
    kept: dict[str, Count]
    examples: Count


class Final(Struct, frozen=True, kw_only=True):
    """The trained model on the test set."""

    accuracy: Share | None
    loss: float | None


class Totals(Struct, frozen=True, kw_only=True):
    """Sums over the run.

    `compute_fraction` is multiply-accumulates trained over those of full models, `scoring_fraction` those spent on
    Fisher scores over the same; both are 0 where nothing was trained. `seconds` is wall-clock time.
    """

    bytes_up: Count
    bytes_down: Count
    bytes_up_dense: Count
    bytes_down_dense: Count
    compute_fraction: NotNegative
    scoring_fraction: NotNegative
    updates_accepted: Count
    updates_rejected: Count
    seconds: NotNegative


class KindEntry(Struct, frozen=True, kw_only=True):
    """One kind of virtual device: how many there are, and the sums of their turns, one a device and round it was drawn
    for: what became of them (`heard`; late with their `download`, `work` or `upload`; went `offline`; `declined`;
    `refused`), bytes, and joules, an estimate. Of turns heard: the mean part of the model's parameters trained and the
    least, and the mean seconds until heard; None where none was.
    """

    profile: str
    name: str
    devices: Count
    turns: Count
    fates: dict[str, Count]
    bytes_up: Count
    bytes_down: Count
    joules: NotNegative
    kept: Share | None
    least_kept: Share | None
    seconds: NotNegative | None


class VirtualRound(Struct, frozen=True, kw_only=True):
    """One closed round: the seconds from the start at which it opened and closed, who was online then, and what became
    of the turns since the round before.
    """

    round: Number
    opened: NotNegative
    closed: NotNegative
    online: Count
    turns: Count
    fates: dict[str, Count]
    joules: NotNegative


class Simulation(Struct, frozen=True, kw_only=True):
    """What a virtual fleet did in virtual time: `seconds` until the last round closed; `heard` of all turns."""

    deadline: NotNegative
    fitted: bool
    availability: Share
    seconds: NotNegative
    heard: Share
    joules: NotNegative
    kinds: tuple[KindEntry, ...]
    rounds: tuple[VirtualRound, ...]


class Report(Struct, frozen=True, kw_only=True):
    """The whole report; rounds in order, at most `config.rounds` of them (fewer when the run was stopped).

    `simulation` is there where the fleet was a virtual one.
    """

    config: RunConfig
    rounds: tuple[RoundEntry, ...]
    devices: tuple[DeviceEntry, ...]
    final: Final
    totals: Totals
    simulation: Simulation | UnsetType = UNSET


def unheard(fates: Mapping[str, int]) -> str:
    """What became of the turns that were not heard, in words: `3 late with the upload, 1 offline`."""
    words = {fate: f"late with the {fate}" for fate in ("download", "work", "upload")}
    counted = [f"{count} {words.get(fate, fate)}" for fate, count in fates.items() if count and fate != "heard"]
    return ", ".join(counted)


def encode_report(report: Report) -> bytes:
    """Indented JSON; numbers that are not finite become null."""
    return msgspec.json.format(msgspec.json.encode(report), indent=2) + b"\n"


def decode_report(payload: bytes) -> Report:
    """Read a report strictly; raises `ReportError`."""
    try:
        return msgspec.json.decode(payload, type=Report)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReportError(f"not a valid {REPORT_NAME}: {error}") from error


def write_report(report: Report, path: Path) -> None:
    """Write `report.json` in one step: a reader, or a kill in between, finds the old file or the new one."""
    replace_file(path, encode_report(report))


def replace_file(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, then move it there."""
    unfinished = path.with_name(f".{path.name}.unfinished")
    unfinished.write_bytes(content)
    unfinished.replace(path)
