"""`fisherfleet-edge fit --config device.toml`: what the device would train of its newest bundle within its limits, and why.

Prints the plan and, beside it, what some widths cost: seconds of work, seconds of sending, bytes, megabytes, and the
limits they exceed. Measures what training costs where that was not done. Asks the server only for files of the bundle
that are missing; sends nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import inf, isfinite
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edge_client.bundle_store import BundleStore
from edge_client.config import DeviceConfig, load_config
from edge_client.durable_files import read_checked
from edge_client.errors import BundleError, DamagedFileError
from edge_client.fitting import BLOCK, Fitted
from edge_client.limits import Limits, pause_reason
from edge_client.link_account import LinkAccount
from edge_client.local_data import in_order
from edge_client.local_update import SCORING_BATCH
from edge_client.machine_sensors import Sensors
from edge_client.plan_clock import remaining_seconds
from edge_client.round_cost import RESOURCES, Room, RoundCost
from edge_client.round_fitting import LINK_FILE, PLAN_FILE, Fitter, Subject, fit_subject
from edge_client.selection import Scores
from edge_client.training.choose import RuntimeSpec, files_for, open_runtime
from wire_protocol.bundle_manifest import FISHER, BundleManifest
from wire_protocol.errors import FisherfleetError
from wire_protocol.examples import fit_examples, load_examples
from wire_protocol.messages import RoundPlan, decode
from wire_protocol.sub_model import full_sub_model, sub_shapes, widths_at
from wire_protocol.tensor_codec import decode as decode_values
from wire_protocol.tensor_codec import encoded_size

EXIT_REFUSED = 2
FRACTIONS = (0.125, 0.25, 0.5, 0.75, 1.0)
MAX_PLAN_BYTES = 64 * 1024
_ASSUMED = {"local_steps": 10, "batch_size": 32, "keep": 1.0}


@dataclass(frozen=True)
class Report:
    """What the command found; `scored` is false where no model or scoring graph is here to score neurons with."""

    bundle: str
    plan: RoundPlan
    cost: RoundCost
    room: Room
    fitted: Fitted
    pause: str | None
    link_measured: bool
    scored: bool
    layout_sizes: Mapping[str, int]


def main(argv: Sequence[str], prog: str) -> int:
    """Print the plan; returns 0, or 2 where there is nothing to plan with."""
    arguments = _parser(prog).parse_args(argv)
    try:
        report = make_report(load_config(arguments.config), _overrides(arguments), Sensors())
    except FisherfleetError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return EXIT_REFUSED
    sys.stdout.write(json.dumps(as_json(report), indent=2) + "\n" if arguments.json else as_table(report))
    return 0


def make_report(config: DeviceConfig, overrides: Mapping[str, Any], sensors: Sensors) -> Report:
    """Plan a round as the device would; raises `FisherfleetError`."""
    store = BundleStore(config.server, config.state)
    bundle = store.newest_bundle()
    manifest = None if bundle is None else store.manifest_here(bundle)
    if bundle is None or manifest is None:
        raise BundleError(f"no bundle is in {config.state} yet: run the device until it has taken part in a round")
    plan = _plan(config, bundle, overrides)
    examples = fit_examples(load_examples(config.data, labelled=False), manifest, str(config.data))
    names = files_for(config.runtime, manifest, widths_at(manifest.layout, plan.keep))
    folder = store.files(bundle, manifest, names)
    runtime = open_runtime(RuntimeSpec(config.runtime, folder, manifest, config.threads))
    account = LinkAccount(config.state / LINK_FILE, sensors.local_time)
    fitter = Fitter(config.limits or Limits(), config.state, account, sensors)
    scores_read = plan.selection == "fisher" and bool(manifest.layout.groups)

    def open_scorer() -> Any:
        from edge_client.fisher import FisherScorer  # noqa: PLC0415 - with the runtime

        return FisherScorer.open(store.files(bundle, manifest, [FISHER]), manifest.layout, config.threads)

    subject = Subject(plan, manifest.layout, examples, runtime, open_scorer, scores_read, config.threads)
    cost = fitter.cost(subject, fitter.calibrated(subject))
    room = fitter.room(_until_deadline(plan, sensors))
    scores = _scores(store, manifest, subject) if scores_read else None
    fitted = fit_subject(subject, cost, room, None)
    if fitted.binds is not None:
        cost = replace(cost, scores=scores_read)
        fitted = fit_subject(subject, cost, room, scores)
    limits = fitter.limits
    pause = pause_reason(limits, sensors.readings(limits))
    sizes = manifest.layout.group_sizes
    return Report(bundle, plan, cost, room, fitted, pause, account.link.measured, scores is not None, sizes)


def as_json(report: Report) -> dict[str, Any]:
    """All figures; what is not limited is null."""
    return {
        "bundle": report.bundle,
        "round": {name: getattr(report.plan, name) for name in (*_ASSUMED, "selection", "precision")},
        "limits": {name: _finite(most) for name, most in zip(RESOURCES, report.room.row, strict=True)},
        "pause": report.pause,
        "bytes_per_second": report.cost.bytes_per_second,
        "link_measured": report.link_measured,
        "scored": report.scored,
        "takes_part": report.pause is None and report.fitted.affordable,
        "binds": binds(report.fitted),
        "fisher_mass": report.fitted.mass,
        "planned": _row(report, "planned", report.fitted.widths),
        "widths": [_row(report, name, widths) for name, widths in _some_widths(report)],
    }


def as_table(report: Report) -> str:
    """The same for people."""
    plan, fitted = report.plan, report.fitted
    speed = "measured" if report.link_measured else "assumed until a receipt is seen"
    limits = ", ".join(f"{name} {most:,.6g}" for name, most in zip(RESOURCES, report.room.row, strict=True)
                       if isfinite(most))  # fmt: skip
    rows = [_row(report, name, widths) for name, widths in _some_widths(report)]
    rows.append(_row(report, "planned", fitted.widths))
    lines = [
        f"bundle {report.bundle[:12]}: {plan.local_steps} steps of {plan.batch_size} examples, keep {plan.keep:g}",
        f"limits of this round: {limits or 'none'}",
        f"uplink: {report.cost.bytes_per_second:,.0f} bytes a second ({speed})",
        "",
        *_columns(rows),
        "",
        "widths planned: " + (", ".join(_named(report, fitted)) or "all, as none can be cut"),
        _verdict(report),
    ]
    return "\n".join(lines) + "\n"


def binds(fitted: Fitted) -> str:
    """The limit that ends the growth."""
    return "keep" if fitted.binds is None else RESOURCES[fitted.binds]


def _verdict(report: Report) -> str:
    if report.pause is not None:
        return f"sits rounds out now: {report.pause}"
    if not report.fitted.affordable:
        return f"sits this round out: even the smallest sub-model is beyond {binds(report.fitted)}"
    what = "of the Fisher mass" if report.scored else "of the neurons (there is no model here yet to score them with)"
    return f"binding limit: {binds(report.fitted)}; keeps {100 * report.fitted.mass:.0f} % {what}"


def _row(report: Report, name: str, widths: np.ndarray[Any, Any]) -> dict[str, Any]:
    used = report.cost.uses(widths[None])[0]
    over = [resource for resource, use, most in zip(RESOURCES, used, report.room.row, strict=True) if use > most]
    return {
        "model": name,
        "widths": report.cost.model.sizes.named(widths),
        "seconds": float(used[0]),
        "sending_seconds": float(used[1] - used[0]),
        "bytes": round(float(used[2])),
        "memory_mb": float(used[3]),
        "exceeds": over,
    }


def _some_widths(report: Report) -> list[tuple[str, np.ndarray[Any, Any]]]:
    sizes = np.array(list(report.layout_sizes.values()), dtype=np.int64)
    rows = [("smallest", np.minimum(BLOCK, sizes))]
    for part in FRACTIONS:
        rows.append((f"{part:g}", np.maximum(np.minimum(BLOCK, sizes), np.rint(part * sizes).astype(np.int64))))
    return rows


def _columns(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = [f"{'neurons':<10}{'seconds':>10}{'sending s':>11}{'bytes':>13}{'MB':>8}  exceeds"]
    for row in rows:
        figures = f"{row['seconds']:>10.2f}{row['sending_seconds']:>11.2f}{row['bytes']:>13,}{row['memory_mb']:>8.0f}"
        lines.append(f"{row['model']:<10}{figures}  {', '.join(row['exceeds']) or '-'}")
    return lines


def _named(report: Report, fitted: Fitted) -> list[str]:
    named = report.cost.model.sizes.named(fitted.widths)
    return [f"{group} {width}/{report.layout_sizes[group]}" for group, width in named.items()]


def _scores(store: BundleStore, manifest: BundleManifest, subject: Subject) -> Scores | None:
    """Scores of the newest model here, None where there is none."""
    shapes = sub_shapes(manifest.layout, full_sub_model(manifest.layout).widths)
    size = encoded_size(shapes, subject.plan.precision)
    for path in (store.folder / "models").glob("*"):
        if path.suffix == "" and path.stat().st_size == size:
            full = decode_values(path.read_bytes(), shapes, subject.plan.precision)
            return subject.open_scorer().scores(full, in_order(subject.examples, SCORING_BATCH))
    return None


def _plan(config: DeviceConfig, bundle: str, overrides: Mapping[str, Any]) -> RoundPlan:
    """The last plan seen for this bundle, or one assumed, with what the command line says in place of what it says."""
    try:
        plan = decode(read_checked(config.state / PLAN_FILE, MAX_PLAN_BYTES), RoundPlan)
    except (OSError, DamagedFileError):
        plan = None
    if plan is None or plan.bundle != bundle:
        plan = RoundPlan(
            run="assumed", round=1, resync_round=1, model_version=0, bundle=bundle, model="0" * 64, deadline=0.0,
            learning_rate=0.01, **_ASSUMED,
        )  # fmt: skip
    return msgspec.structs.replace(plan, **overrides)


def _until_deadline(plan: RoundPlan, sensors: Sensors) -> float:
    """Until that of the last plan where it is still to come; else a round's deadline is not known."""
    moment = sensors.local_time()
    left = -1.0 if moment is None else remaining_seconds(plan.deadline, moment.timestamp(), retained=True)
    return left if left > 0 else inf


def _finite(value: float) -> float | None:
    return float(value) if isfinite(value) else None


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {"local_steps": arguments.steps, "batch_size": arguments.batch, "keep": arguments.keep}
    return {name: value for name, value in given.items() if value is not None}


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description="Say what this device would train within its limits, and why."
    )
    parser.add_argument("--config", type=Path, required=True, help="the device's TOML file")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--steps", type=int, help="local steps, in place of the last plan's (10 where none was seen)")
    parser.add_argument("--batch", type=int, help="examples a step, in place of the last plan's (32)")
    parser.add_argument("--keep", type=float, help="most of the neurons to keep, in place of the last plan's (1)")
    return parser
