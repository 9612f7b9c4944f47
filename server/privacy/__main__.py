"""`fisherfleet privacy plan`: how much noise keeps a run within a promise, and how epsilon grows by round.

Exit status: 0, or 2 for a mistake that a line on stderr explains.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from server.privacy.schedule import DeviceSchedule, RecordSchedule, Schedule
from wire_protocol.errors import FisherfleetError, require

EXIT_MISTAKE = 2
MODES = RECORD, DEVICE = "record", "device"
PLOT_KINDS = (".svg", ".png")
_OF_RECORDS = ("local_steps", "sampling_rate", "score_noise_multiplier", "resync_every")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = command_parser().parse_args(argv)
    try:
        _plan(arguments)
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet privacy: {error}\n")
        return EXIT_MISTAKE
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(prog="fisherfleet privacy", description="Differential privacy of a run.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    text = "how much noise keeps a run within (epsilon, delta), and how epsilon grows by round"
    plan = commands.add_parser("plan", help=text, description=f"{text[0].upper()}{text[1:]}.")
    plan.add_argument("--epsilon", help="promised for the whole run, 0.05 to 50", type=float, required=True)
    plan.add_argument("--delta", help="far below 1 / records of a device, 1e-12 to 0.1", type=float, required=True)
    plan.add_argument("--rounds", help="rounds that a device takes part in", type=int, required=True)
    kinds = "hide one record of a device, or all records of one device (default: %(default)s)"
    plan.add_argument("--mode", help=kinds, choices=MODES, default=RECORD)
    plan.add_argument("--local-steps", help="steps a round; mode record", type=int)
    rate = "probability with which a record is in a step, in (0, 1]; mode record"
    plan.add_argument("--sampling-rate", help=rate, type=float)
    scores = "noise on Fisher scores over clip norm squared; mode record, left out: no scores"
    plan.add_argument("--score-noise-multiplier", help=scores, type=float, metavar="Z")
    plan.add_argument("--resync-every", help="rounds between scores; with Z only", type=int, metavar="N")
    counts = "twice the noise on how many gradients or updates are within a clip norm that moves; left out: none told"
    plan.add_argument("--count-noise-multiplier", help=counts, type=float, metavar="Y", default=0.0)
    plan.add_argument("--json", help="print JSON", action="store_true")
    plan.add_argument("--plot", help="draw epsilon by round", type=Path, metavar="FILE.svg|png")
    return parser


def _plan(arguments: argparse.Namespace) -> None:
    schedule = _schedule(vars(arguments))
    if arguments.plot is not None:
        _require_plot(arguments.plot)
    from server.privacy.calibration import Target  # noqa: PLC0415 - dp-accounting takes a second to load
    from server.privacy.plan import plan_privacy  # noqa: PLC0415 - the same
    from server.privacy.plan_words import describe  # noqa: PLC0415 - the same

    plan = plan_privacy(Target(arguments.epsilon, arguments.delta), schedule)
    if arguments.json:
        sys.stdout.write(json.dumps({"mode": arguments.mode, **asdict(plan)}, indent=2) + "\n")
    else:
        sys.stdout.write(describe(plan))
    if arguments.plot is not None:
        from server.privacy.plan_plot import draw_plan  # noqa: PLC0415 - matplotlib only for a plot

        draw_plan(plan, arguments.plot)


def _schedule(options: Mapping[str, Any]) -> Schedule:
    if options["mode"] == DEVICE:
        for name in _OF_RECORDS:
            require(options[name] is None, name, options[name], f"left out, as mode is {DEVICE}")
        return DeviceSchedule(options["rounds"], options["count_noise_multiplier"])
    steps, rate, scores, resync_every = (options[name] for name in _OF_RECORDS)
    require(steps is not None, "local_steps", steps, f"given, as mode is {RECORD}")
    require(rate is not None, "sampling_rate", rate, f"given, as mode is {RECORD}")
    legal = "given with --score-noise-multiplier and only then"
    require((scores is None) == (resync_every is None), "resync_every", resync_every, legal)
    beside = {} if scores is None else {"score_noise_multiplier": scores, "resync_every": resync_every}
    counts = options["count_noise_multiplier"]
    return RecordSchedule(options["rounds"], steps, rate, count_noise_multiplier=counts, **beside)


def _require_plot(path: Path) -> None:
    require(path.suffix in PLOT_KINDS, "plot", str(path), f"a file name that ends in {' or '.join(PLOT_KINDS)}")
    require(path.parent.is_dir(), "plot", str(path), "in a folder that exists")


if __name__ == "__main__":
    sys.exit(main())
