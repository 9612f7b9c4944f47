"""`fisherfleet emulate`: train a fleet of simulated devices on this machine with one command."""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import get_args

from rich.console import Console

from devices.emulation.conclusion import Finished, conclude
from devices.emulation.device_folders import device_name
from devices.emulation.emulate import LOGS_FOLDER, OnRound, Prepared, emulate, prepare
from devices.emulation.live_view import LiveView, row_of
from devices.emulation.run_options import PRINT, add_run_options, take_settings, write_json
from devices.emulation.settings import EmulationSettings, Runtime
from server.config import Difference
from server.mode_options import MODE_OPTIONS, add_mode_options, take_buffer
from server.records import RoundRecord
from wire_protocol.errors import FisherfleetError
from wire_protocol.participation import takes_part

USAGE_ERROR = 2
INTERRUPTED = 130
"""Exit status of a program ended by Ctrl-C: 128 + SIGINT."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = vars(command_parser().parse_args(argv))
    json_target = options.pop("json")
    mode = {name: options.pop(name) for name in MODE_OPTIONS}
    console = Console(stderr=json_target == PRINT, highlight=False)
    try:
        finished = _run(EmulationSettings(**take_settings(options), buffer=take_buffer(mode)), console)
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet emulate: {error}\n")
        return USAGE_ERROR
    except KeyboardInterrupt:
        finished = None
    if finished is None:
        sys.stderr.write("fisherfleet emulate: stopped before training began; nothing was trained\n")
        return INTERRUPTED
    conclude(finished, console)
    sys.stdout.write(write_json(finished.report, json_target))
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
    settings = prepared.settings
    names = [device_name(number) for number in range(1, settings.devices + 1)]

    def show(record: RoundRecord) -> None:
        drawn = sum(takes_part(settings.participation, settings.seed, record.round, name) for name in names)
        late = f"{record.updates_late} of earlier rounds" if record.updates_late else ""
        view.round_closed(row_of(record, drawn, late))

    return show


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet emulate",
        description="Train a fleet of simulated devices on this machine: a real MQTT broker, the real server, and the "
        "real device code on real data. Results go to a folder with report.html, report.json, predict.onnx and "
        "model.safetensors.",
    )
    groups = add_run_options(parser, EmulationSettings)
    option, training = groups.option, groups.training
    option(training, "difference", "number format of whole models, as differences", choices=get_args(Difference))
    option(training, "runtime", "what devices train with", choices=get_args(Runtime))
    add_mode_options(training)
    return parser


if __name__ == "__main__":
    sys.exit(main())
