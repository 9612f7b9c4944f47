"""What a run leaves behind: report.json, report.html, predict.onnx and model.safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from devices.emulation.report import (
    REPORT_NAME,
    DeviceEntry,
    Final,
    Report,
    RoundEntry,
    RunConfig,
    Simulation,
    Totals,
    replace_file,
    write_report,
)
from devices.emulation.report_page import PAGE_NAME, write_report_page
from devices.emulation.settings import FleetSettings
from model_export.trained_model import trained_files
from server.privacy.run_words import run_words
from server.records import DeviceRecord, RoundRecord


@dataclass(frozen=True)
class Outcome:
    """What the server holds when the run is over or was stopped, and what a virtual fleet did."""

    rounds: Sequence[RoundRecord]
    devices: Sequence[DeviceRecord]
    group_sizes: Mapping[str, int]
    seconds: float
    simulation: Simulation | UnsetType = UNSET


def build_report(settings: FleetSettings, outcome: Outcome) -> Report:
    """Sum up an outcome."""
    return Report(
        config=RunConfig(
            devices=settings.devices,
            rounds=settings.rounds,
            keep=settings.keep,
            resync_every=settings.resync_every,
            seed=settings.seed,
            dataset=settings.dataset,
            model=settings.model,
            buffer_goal=None if settings.buffer is None else settings.buffer.goal,
            privacy=run_words(settings.run_config("words")),
            group_sizes=dict(outcome.group_sizes),
        ),
        rounds=tuple(map(_round_entry, outcome.rounds)),
        devices=tuple(DeviceEntry(id=d.id, kept=dict(d.kept), examples=d.examples) for d in outcome.devices),
        final=_final(outcome.rounds),
        totals=_totals(outcome),
        simulation=outcome.simulation,
    )


def write_results(out: Path, report: Report, bundle: Path, parameters: Mapping[str, NDArray[Any]]) -> list[Path]:
    """Write the four files of a run into `out`, replacing older ones; returns their paths."""
    write_report_page(report, out / PAGE_NAME)
    write_report(report, out / REPORT_NAME)
    trained = trained_files(bundle, parameters)
    for name, content in trained.items():
        replace_file(out / name, content)
    return [out / name for name in (PAGE_NAME, REPORT_NAME, *trained)]


def _round_entry(record: RoundRecord) -> RoundEntry:
    return RoundEntry(
        round=record.round,
        accuracy=record.accuracy,
        loss=record.loss,
        updates_accepted=record.updates_accepted,
        bytes_up=record.bytes_up,
        bytes_down=record.bytes_down,
        bytes_up_dense=record.bytes_up_dense,
        bytes_down_dense=record.bytes_down_dense,
        resync=record.resync,
        updates_late=record.updates_late,
    )


def _final(rounds: Sequence[RoundRecord]) -> Final:
    return Final(accuracy=rounds[-1].accuracy, loss=rounds[-1].loss) if rounds else Final(accuracy=None, loss=None)


def _totals(outcome: Outcome) -> Totals:
    rounds = outcome.rounds
    full = sum(record.full_macs for record in rounds)
    return Totals(
        bytes_up=sum(record.bytes_up for record in rounds),
        bytes_down=sum(record.bytes_down for record in rounds),
        bytes_up_dense=sum(record.bytes_up_dense for record in rounds),
        bytes_down_dense=sum(record.bytes_down_dense for record in rounds),
        compute_fraction=sum(record.trained_macs for record in rounds) / full if full else 0.0,
        scoring_fraction=sum(record.scored_macs for record in rounds) / full if full else 0.0,
        updates_accepted=sum(record.updates_accepted for record in rounds),
        updates_rejected=sum(record.updates_rejected for record in rounds),
        seconds=outcome.seconds,
    )
