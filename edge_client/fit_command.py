"""`fisherfleet-edge fit --config device.toml`: what the device would train within its limits, of its newest bundle.

Prints the plan and, beside it, what some widths cost: seconds of work, seconds of sending, bytes, megabytes, and the
limits they exceed. Measures what training costs where that was not done. Asks the server only for files of the bundle
that are missing; sends nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

import msgspec
import numpy as np

from edge_client.bundle_store import BundleStore
from edge_client.config import DeviceConfig, load_config
from edge_client.config_option import add_config_option
from edge_client.durable_files import read_checked
from edge_client.errors import BundleError, DamagedFileError
from edge_client.fit_report import Report, as_json, as_table
from edge_client.limits import Limits, pause_reason
from edge_client.link_account import LinkAccount
from edge_client.local_data import drawn, in_order
from edge_client.local_update import SCORING_BATCH, Scorer
from edge_client.machine_sensors import Sensors
from edge_client.plan_clock import remaining_seconds
from edge_client.round_fitting import LINK_FILE, PLAN_FILE, Fitter, Subject, fit_subject
from edge_client.training.choose import RuntimeSpec, files_for, open_runtime
from wire_protocol.bundle_manifest import FISHER, BundleManifest
from wire_protocol.errors import FisherfleetError
from wire_protocol.examples import fit_examples, load_examples
from wire_protocol.messages import RoundPlan, decode
from wire_protocol.neuron_scores import Scores
from wire_protocol.sub_model import full_sub_model, sub_shapes
from wire_protocol.tensor_codec import decode as decode_values
from wire_protocol.tensor_codec import largest_size

EXIT_REFUSED = 2
MAX_PLAN_BYTES = 64 * 1024


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
    subject = _subject(config, store, manifest, _plan(config, bundle, overrides))
    account = LinkAccount(config.state / LINK_FILE, sensors.local_time)
    fitter = Fitter(config.limits or Limits(), config.state, account, sensors)
    cost = fitter.cost(subject, fitter.calibrated(subject))
    room = fitter.room(_until_deadline(subject.plan, sensors))
    fitted, scores = fit_subject(subject, cost, room, None), None
    if fitted.binds is not None and subject.scores:
        cost, scores = cost.with_scoring(), _scores(store, manifest, subject)
        fitted = fit_subject(subject, cost, room, scores)
    pause = pause_reason(fitter.limits, sensors.readings(fitter.limits))
    return Report(
        bundle, subject.plan, cost, room, fitted,
        pause=None if pause is None else str(pause),
        link_measured=account.link.measured,
        scored=scores is not None,
        layout_sizes=manifest.layout.group_sizes,
    )  # fmt: skip


def _subject(config: DeviceConfig, store: BundleStore, manifest: BundleManifest, plan: RoundPlan) -> Subject:
    layout, bundle = manifest.layout, plan.bundle
    examples = fit_examples(load_examples(config.data, labelled=False), manifest, str(config.data))
    folder = store.files(bundle, manifest, files_for(config.runtime, manifest, plan.largest_widths(layout)))
    processors = config.processors
    runtime = open_runtime(RuntimeSpec(config.runtime, folder, manifest, processors))

    def open_scorer() -> Scorer:
        from edge_client.fisher import FisherScorer  # noqa: PLC0415 - with the runtime

        return FisherScorer.open(store.files(bundle, manifest, [FISHER]), layout, processors)

    reads_scores = plan.selection == "fisher" and bool(layout.groups)
    return Subject(plan, layout, examples, runtime, open_scorer, reads_scores, processors.threads)


def _scores(store: BundleStore, manifest: BundleManifest, subject: Subject) -> Scores | None:
    """Scores of the newest model here, None where there is none."""
    shapes = sub_shapes(manifest.layout, full_sub_model(manifest.layout).widths)
    size = largest_size(shapes, subject.plan.downlink_codec)
    for path in (*store.folder.glob("models/*"), *store.folder.glob("resyncs/*/*")):
        if path.suffix == "" and path.stat().st_size == size:
            full = decode_values(path.read_bytes(), shapes, subject.plan.downlink_codec)
            some = drawn(subject.examples, subject.plan.scored_of(len(subject.examples)), np.random.default_rng())
            return subject.open_scorer().scores(full, in_order(some, SCORING_BATCH))
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
            local_steps=10, batch_size=32, learning_rate=0.01, keep=1.0,
        )  # fmt: skip
    return msgspec.structs.replace(plan, **overrides)


def _until_deadline(plan: RoundPlan, sensors: Sensors) -> float:
    """Until that of the last plan where it is still to come; else a round's deadline is not known."""
    moment = sensors.local_time()
    left = -1.0 if moment is None else remaining_seconds(plan.deadline, moment.timestamp(), retained=True)
    return left if left > 0 else inf


def _overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    given = {"local_steps": arguments.steps, "batch_size": arguments.batch, "keep": arguments.keep}
    return {name: value for name, value in given.items() if value is not None}


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=prog, description="Say what this device would train, and why.")
    add_config_option(parser)
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--steps", type=int, help="local steps, in place of the last plan's (10 where none was seen)")
    parser.add_argument("--batch", type=int, help="examples a step, in place of the last plan's (32)")
    parser.add_argument("--keep", type=float, help="most of the neurons to keep, in place of the last plan's (1)")
    return parser
