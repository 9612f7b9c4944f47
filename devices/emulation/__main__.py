"""`fisherfleet emulate`: train a fleet of simulated devices on this machine with one command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from dataclasses import fields
from datetime import datetime
from pathlib import Path
from typing import Any, get_args

from rich.console import Console

from devices.emulation.datasets import DatasetName
from devices.emulation.emulate import LOGS_FOLDER, Finished, OnRound, Prepared, emulate, prepare
from devices.emulation.live_view import LiveView, RoundRow
from devices.emulation.quantities import format_saving, format_seconds, format_share
from devices.emulation.report import REPORT_NAME, encode_report
from devices.emulation.settings import EmulationSettings, Runtime
from model_export.zoo import ZOO
from server.config import Difference, RunConfig
from server.mode_options import MODE_OPTIONS, add_mode_options, take_buffer
from server.records import RoundRecord
from server.training_options import add_training_options, take_training
from wire_protocol.errors import FisherfleetError
from wire_protocol.local_training import LocalTraining
from wire_protocol.messages import SelectionPolicy
from wire_protocol.tensor_codec import DownlinkPrecision, Precision

USAGE_ERROR = 2
INTERRUPTED = 130
"""Exit status of a program ended by Ctrl-C: 128 + SIGINT."""

PRINT = "-"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = vars(_parser().parse_args(argv))
    json_target = options.pop("json")
    chosen = {name: options.pop(name) for name in LocalTraining.__struct_fields__}
    mode = {name: options.pop(name) for name in MODE_OPTIONS}
    console = Console(stderr=json_target == PRINT, highlight=False)
    try:
        settings = EmulationSettings(**options, training=take_training(chosen), buffer=take_buffer(mode))
        finished = _run(settings, console)
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet emulate: {error}\n")
        return USAGE_ERROR
    except KeyboardInterrupt:
        finished = None
    if finished is None:
        sys.stderr.write("fisherfleet emulate: stopped before training began; nothing was trained\n")
        return INTERRUPTED
    _conclude(finished, console)
    if json_target == PRINT:
        sys.stdout.write(encode_report(finished.report).decode())
    elif json_target is not None:
        Path(json_target).write_bytes(encode_report(finished.report))
    return INTERRUPTED if finished.interrupted else 0


def _run(settings: EmulationSettings, console: Console) -> Finished | None:
    with LiveView(console, settings.rounds) as view:
        view.status("preparing data and model")
        prepared = prepare(settings)
        _log_to(settings.out / LOGS_FOLDER)
        return asyncio.run(_emulate_until_signalled(prepared, view))


def _log_to(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder / "server.log", mode="w", encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    server = logging.getLogger("server")
    server.setLevel(logging.INFO)
    server.propagate = False
    server.addHandler(handler)


async def _emulate_until_signalled(prepared: Prepared, view: LiveView) -> Finished | None:
    """The first Ctrl-C or SIGTERM stops the run cleanly and its results are written; None before training began."""
    task = asyncio.ensure_future(emulate(prepared, view.status, _show(prepared, view)))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, _stop_once(task, view))
    try:
        return await task
    except asyncio.CancelledError:
        return None


def _stop_once(task: asyncio.Future[Finished], view: LiveView) -> Callable[[], None]:
    asked = False

    def stop() -> None:
        nonlocal asked
        if not asked:
            asked = True
            view.status("stopping; what was trained so far is saved")
            task.cancel()

    return stop


def _show(prepared: Prepared, view: LiveView) -> OnRound:
    def show(record: RoundRecord) -> None:
        view.round_closed(
            RoundRow(
                round=record.round,
                devices_heard=record.updates_accepted,
                devices=prepared.settings.devices,
                accuracy=record.accuracy,
                bytes_up=record.bytes_up,
                bytes_down=record.bytes_down,
                bytes_up_dense=record.bytes_up_dense,
                bytes_down_dense=record.bytes_down_dense,
                compute_fraction=record.trained_macs / record.full_macs if record.full_macs else 0.0,
                resync=record.resync,
            )
        )

    return show


def _conclude(finished: Finished, console: Console) -> None:
    totals, final = finished.report.totals, finished.report.final
    how = "stopped" if finished.interrupted else "finished"
    console.print(
        f"{how} after {len(finished.report.rounds)} rounds in {format_seconds(totals.seconds)}: "
        f"accuracy {format_share(final.accuracy)}, "
        f"up {format_saving(totals.bytes_up_dense, totals.bytes_up)} than dense float32, "
        f"down {format_saving(totals.bytes_down_dense, totals.bytes_down)}, "
        f"{format_share(totals.compute_fraction)} of full training compute"
    )
    for path in finished.paths:
        console.print(f"  {path}", soft_wrap=True)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("must be the name of a folder, got nothing")
    return Path(text)


def _writable(text: str) -> str:
    """Find out before the training, not after it, that a file cannot be written."""
    if text != PRINT:
        try:
            Path(text).open("a").close()
        except OSError as error:
            raise argparse.ArgumentTypeError(
                f"must be a file that can be written, got {text!r} ({error.strerror})"
            ) from error
    return text


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="fisherfleet emulate",
        description="Train a fleet of simulated devices on this machine: a real MQTT broker, the real server, and the "
        "real device code on real data. Results go to a folder with report.html, report.json, predict.onnx and "
        "model.safetensors.",
    )
    default = {field.name: field.default for field in fields(EmulationSettings)}
    fleet, data, training, output = map(parser.add_argument_group, ("fleet", "data and model", "training", "output"))

    def option(group: Any, name: str, explanation: str, **how: Any) -> None:
        how.setdefault("default", default[name])
        group.add_argument(f"--{name.replace('_', '-')}", help=f"{explanation} (default: %(default)s)", **how)

    option(fleet, "devices", "number of devices; a data set with a natural split sets it itself", type=int)
    option(fleet, "rounds", "rounds to train", type=int)
    option(
        fleet, "keep", "fraction of the neurons of each layer that a device keeps, above 0 and at most 1", type=float
    )
    option(fleet, "resync_every", "rounds between two whole models, at which neurons are chosen afresh", type=int)
    option(fleet, "selection", "how neurons are chosen", choices=get_args(SelectionPolicy))
    option(fleet, "seed", "seed of the split, the initial weights and every device's chance", type=int)
    option(data, "dataset", "data to train on", choices=get_args(DatasetName))
    data.add_argument("--data", type=Path, help="folder of the IDX files, or the .npz file with x, y and maybe device")
    option(data, "alpha", "concentration of the Dirichlet split; small is less alike", type=float)
    option(data, "model", f"a zoo model ({', '.join(ZOO)}) or module:factory, called without arguments")
    option(training, "local_steps", "steps of SGD that a device takes in a round", type=int)
    option(training, "batch_size", "examples in a step", type=int)
    option(training, "learning_rate", "step size", type=float)
    option(training, "precision", "number format of updates", choices=get_args(Precision))
    option(training, "top_k", "fraction of an update's values that is sent, the largest; the rest waits", type=float)
    option(training, "downlink", "number format of models and slices", choices=get_args(DownlinkPrecision))
    option(training, "difference", "number format of whole models, as differences", choices=get_args(Difference))
    option(training, "runtime", "what devices train with", choices=get_args(Runtime))
    option(training, "noise_stddev", "Gaussian noise added to every value sent; not a privacy guarantee", type=float)
    add_mode_options(training)
    add_training_options(training, RunConfig.training)
    output.add_argument(
        "--out",
        type=_folder,
        default=Path("runs", f"{datetime.now():%Y%m%d-%H%M%S}"),
        help="folder for the results; an earlier run's files there are replaced (default: runs/<date>-<time>)",
    )
    output.add_argument(
        "--json",
        nargs="?",
        const=PRINT,
        type=_writable,
        metavar="FILE",
        help=f"also write {REPORT_NAME} to FILE, or to standard output when no file is named",
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
