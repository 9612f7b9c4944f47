"""`fisherfleet serve`: a fleet's server on any broker. With `--bundle` it begins a run, or goes on with one, and ends
with it; without, it serves the runs of its state folder and takes orders over HTTP until it is stopped.

Exit status: 0 when its run is over, 2 for a mistake that a line on stderr explains, 130 after Ctrl-C, 143 after
SIGTERM. Started again with the same state folder it goes on where it was.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import signal
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args

from model_export.trained_model import trained_files
from server.clipping_options import add_clipping_options, take_clipping
from server.combining_options import add_combining_options, chosen_aggregation, chosen_optimizer
from server.config import Difference, RunConfig, ServiceSettings
from server.database_url import given_database
from server.durable_files import write_durably
from server.log_format import LogFormat, configure_logging
from server.mode_options import add_mode_options, take_buffer
from server.model_archive import ArchiveSettings
from server.privacy.run_words import run_words
from server.privacy_options import add_privacy_options, take_privacy
from server.rate_schedule import RateDecay
from server.records import RoundRecord
from server.screening_options import add_screening_options, take_screening
from server.service import Service
from server.training_options import add_training_options, take_training
from wire_protocol.broker_url import parse_broker_url
from wire_protocol.errors import FisherfleetError, InvalidValueError
from wire_protocol.examples import load_examples
from wire_protocol.messages import SelectionPolicy
from wire_protocol.tensor_codec import DownlinkPrecision, Precision

_EXIT_MISTAKE, _EXIT_INTERRUPTED, _EXIT_TERMINATED = 2, 130, 143

logger = logging.getLogger("server")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    parser = command_parser()
    arguments = parser.parse_args(argv)
    configure_logging(arguments.log_format)
    logger.setLevel(logging.INFO)
    try:
        if arguments.bundle is None:
            _require_no_run(arguments, parser)
        settings = _settings(arguments)
        asyncio.run(_serve(settings))
    except FisherfleetError as error:
        sys.stderr.write(f"fisherfleet serve: {error}\n")
        return _EXIT_MISTAKE
    except KeyboardInterrupt:
        sys.stderr.write("fisherfleet serve: stopped; start it again to go on with the run\n")
        return _EXIT_INTERRUPTED
    except asyncio.CancelledError:
        return _EXIT_TERMINATED
    return 0


def command_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        prog="fisherfleet serve",
        parents=[_service_options()],
        description="Train a fleet: serve runs to the devices that a broker connects. With --bundle one run that is "
        "begun or gone on with, and then the end; without, the runs of the state folder, until stopped.",
    )

    _add_run_options(_adding_to(parser), RunConfig())
    add_mode_options(parser)
    add_screening_options(parser)
    add_training_options(parser, RunConfig().training)
    add_privacy_options(parser, required=True)
    add_clipping_options(parser)
    return parser


def _adding_to(parser: argparse.ArgumentParser) -> Callable[..., None]:
    def add(flag: str, text: str, **settings: Any) -> None:
        shown = " (default: %(default)s)" if settings.get("default") is not None else ""
        parser.add_argument(flag, help=text + shown, **settings)

    return add


def _service_options() -> argparse.ArgumentParser:
    """Those that are of no run."""
    parser = argparse.ArgumentParser(add_help=False)
    add = _adding_to(parser)
    broker = "mqtt://127.0.0.1:1883"
    add("--bundle", "folder made by `fisherfleet export`, of the run to begin or to go on with", type=Path)
    add("--broker", "mqtt://[user[:password]@]host[:port], or mqtts:// for TLS", metavar="URL", default=broker)
    add("--fleet", "folder with the operator's keys and the registry of devices", type=Path, default=Path("fleet"))
    add("--ca-file", "certificates (PEM) that may have signed the broker's", type=Path)
    add("--host", "address that devices fetch models from; 0.0.0.0 for every network", default="127.0.0.1")
    add("--port", "its port; 0 takes a free one", type=int, default=8765)
    add(
        "--state",
        "folder for bundles and models, and for the database where it is a file",
        type=Path,
        default=Path("fisherfleet-state"),
    )
    add("--database", "postgresql+psycopg://[user@]host/name; else a SQLite file in the state folder", metavar="URL")
    add("--blobs", "where versions of models are kept: file:///, s3://bucket/; else the state folder", metavar="URL")
    add("--keep-models", "versions of a run's model that are kept", type=int, default=ArchiveSettings.keep_models)
    add("--log-format", "of the log on stderr", choices=get_args(LogFormat), default="text")
    return parser


def _add_run_options(add: Callable[..., None], default: RunConfig) -> None:
    policies, precisions, differences = get_args(SelectionPolicy), get_args(Precision), get_args(Difference)
    add("--test", "held-out examples, arrays x and y, to evaluate every round on", type=Path, metavar="FILE.npz")
    add("--run", "name of the run; else the bundle's unfinished run in the state folder, else a new one")
    add("--rounds", "rounds to train", type=int, default=default.rounds)
    add("--keep", "fraction of neurons a device keeps, in (0, 1]", type=float, default=default.keep)
    add("--resync-every", "rounds between choices of neurons", type=int, default=default.resync_every)
    add("--local-steps", "steps of SGD a device takes a round", type=int, default=default.local_steps)
    add("--batch-size", "examples a step", type=int, default=default.batch_size)
    add("--learning-rate", "of a device's SGD", type=float, default=default.learning_rate)
    add("--rate-decay", "how it falls over the rounds", choices=get_args(RateDecay), default=default.rate_decay)
    add("--rate-warmup", "rounds over which it rises first", type=int, default=default.rate_warmup)
    add("--initial-scale", "of initial weights that read hidden neurons", type=float, default=default.initial_scale)
    add("--selection", "how neurons are chosen", choices=policies, default=default.selection)
    add("--precision", "of updates' values", choices=precisions, default=default.precision)
    add("--top-k", "fraction of an update's values that is sent, in (0, 1]", type=float, default=default.top_k)
    add("--downlink", "precision of models and slices", choices=get_args(DownlinkPrecision), default=default.downlink)
    add(
        "--difference",
        "precision of models as differences from the last; off where few devices are drawn",
        choices=differences,
        default=default.difference,
    )
    add("--score-examples", "examples a device scores neurons on, 0 for all", type=int, default=default.score_examples)
    add(
        "--participation",
        "rate at which devices are drawn for a round, in (0, 1]",
        type=float,
        default=default.participation,
    )
    add("--participation-seed", "of these draws", type=int, default=default.participation_seed)
    add("--min-devices", "devices online before the first round", type=int, default=default.min_devices)
    add("--round-seconds", "time limit of a round", type=float, default=default.round_seconds)
    add_combining_options(add)
    add("--quorum", "updates a round needs before it can close", type=int, default=default.quorum)


def _settings(arguments: argparse.Namespace) -> ServiceSettings:
    return ServiceSettings(
        state=arguments.state,
        broker=parse_broker_url(arguments.broker),
        bundle=arguments.bundle,
        fleet=arguments.fleet,
        ca_file=arguments.ca_file,
        host=arguments.host,
        port=arguments.port,
        test=load_examples(arguments.test, labelled=False) if arguments.test else None,
        run=RunConfig() if arguments.bundle is None else _run_config(arguments),
        goes_on=arguments.run is None,
        database=given_database(arguments.database),
        archive=ArchiveSettings(arguments.blobs, arguments.keep_models),
    )


def _require_no_run(arguments: argparse.Namespace, parser: argparse.ArgumentParser) -> None:
    """Without a bundle there is no run that options could be of."""
    of_the_service = vars(_service_options().parse_args([]))
    for name, value in vars(arguments).items():
        if name not in of_the_service and value != parser.get_default(name):
            raise InvalidValueError(f"{name} must be left out without --bundle, got {value}")


def _run_config(arguments: argparse.Namespace) -> RunConfig:
    given = {field.name: getattr(arguments, field.name) for field in fields(RunConfig) if field.name in arguments}
    options = vars(arguments)
    together = {
        "run": arguments.run or time.strftime("run-%Y%m%d-%H%M%S", time.gmtime()),
        "privacy": take_privacy(options),
        "clipping": take_clipping(options),
        "training": take_training(options),
        "buffer": take_buffer(options),
        "aggregation": chosen_aggregation(arguments),
        "server_optimizer": chosen_optimizer(arguments),
        **take_screening(options),
    }
    return RunConfig(**(given | together))


async def _serve(settings: ServiceSettings) -> None:
    task = asyncio.current_task()
    if task is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with Service(settings, _log_round) as service:
        if settings.bundle is None:
            runs = ", ".join(host.run for host in service.active) or "no run"
            logger.info("serving %s at %s, on %s", runs, service.http_url, settings.broker)
            await service.run()
        else:
            await _serve_run(settings, settings.bundle, service)


async def _serve_run(settings: ServiceSettings, bundle: Path, service: Service) -> None:
    run, words = service.run_name, await asyncio.to_thread(run_words, settings.run)
    logger.info("run %s: serving bundle %s at %s", run, bundle, service.http_url)
    logger.info("run %s: %s", run, words)
    logger.info("waiting for %d device(s) on %s", settings.run.min_devices, settings.broker)
    try:
        await service.run()
    finally:
        _write_model(settings, bundle, service)


def _log_round(run: str, record: RoundRecord) -> None:
    tested = [
        f"{name} {value:.4f}"
        for name, value in (("accuracy", record.accuracy), ("loss", record.loss))
        if value is not None
    ]
    logger.info(
        "run %s round %d%s: heard %d device(s)%s, refused %d, %s, %.1f kB up, %.1f kB down, %.1f s",
        run,
        record.round,
        " (resync)" if record.resync else "",
        record.updates_accepted,
        f", {record.updates_late} late" if record.updates_late else "",
        record.updates_rejected,
        ", ".join(tested) or "not tested",
        record.bytes_up / 1000,
        record.bytes_down / 1000,
        record.seconds,
    )


def _write_model(settings: ServiceSettings, bundle: Path, service: Service) -> None:
    written = []
    for name, content in trained_files(bundle, service.latest_parameters()).items():
        write_durably(settings.state / name, content)
        written.append(str(settings.state / name))
    standing = "is over" if service.run_finished else "has stopped"
    sys.stdout.write(f"run {service.run_name} {standing}; its model is in {' and '.join(written)}\n")


if __name__ == "__main__":
    sys.exit(main())
