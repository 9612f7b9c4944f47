"""`fisherfleet-edge [--config device.toml]`: run one device until it is stopped; or one of `COMMANDS`.

Only the chosen command's modules are loaded.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import signal
import sys
import threading
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from edge_client.config import DeviceConfig, load_config
from edge_client.config_option import ENROLMENT_FILE, add_config_option
from edge_client.errors import StartAgainError
from wire_protocol.errors import FisherfleetError

EXIT_REFUSED = 2
EXIT_AGAIN = 75
"""Asks to be started again, for another release, as the unit always does; EX_TEMPFAIL."""
STOP_SECONDS = 8.0
"""A training halts at its next step. What hangs longer, as a download from a server that is silent, is left: that a
kill at any moment does no harm is what the device is built for.
"""


class Command(NamedTuple):
    """The module whose `main(argv, prog)` runs the command, and what it does in one line."""

    module: str
    summary: str


COMMANDS = {
    "doctor": Command("edge_client.doctor.command", "look for what keeps this device from training"),
    "status": Command("edge_client.status_command", "what the device does now, and what waits to be sent"),
    "logs": Command("edge_client.logs_command", "what the service has logged"),
    "fit": Command("edge_client.fit_command", "how much of the model it would train within its limits, and why"),
    "privacy": Command("edge_client.privacy.command", "what private runs have spent"),
    "enrol": Command("edge_client.enrolment", "make its keys and enrol it"),
}


def main(argv: Sequence[str] | None = None, prog: str = "fisherfleet-edge") -> int:
    """Run a device or a command.

    Returns 0 when it was stopped, 2 when it could not start, 75 when it is to be started again.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0] in COMMANDS:
        name, *rest = words
        status: int = import_module(COMMANDS[name].module).main(rest, f"{prog} {name}")
        return status
    arguments = command_parser(prog).parse_args(words)
    logging.basicConfig(
        level=logging.DEBUG if arguments.verbose else logging.INFO,
        format="%(asctime)s %(levelname)-7s %(message)s",
        stream=sys.stderr,
    )
    try:
        _enrol_at_first_start(arguments.config)
        asyncio.run(_run_until_stopped(load_config(arguments.config)))
    except StartAgainError:
        return EXIT_AGAIN
    except FisherfleetError as error:
        sys.stderr.write(f"{prog}: error: {error}\n")
        return EXIT_REFUSED
    except KeyboardInterrupt:
        pass
    return 0


def command_parser(prog: str) -> argparse.ArgumentParser:
    """The command's arguments."""
    width = max(map(len, COMMANDS))
    listed = "\n".join(f"  {name:<{width}}  {command.summary}" for name, command in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog=prog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Train on this device's own data and send what changed to a Fisherfleet server.",
        epilog=f"commands in place of that ({prog} COMMAND --help explains):\n{listed}",
    )
    add_config_option(parser)
    parser.add_argument("--verbose", action="store_true", help="log every message")
    return parser


def _enrol_at_first_start(config: Path) -> None:
    waiting = config.with_name(ENROLMENT_FILE)
    if not waiting.exists():
        return
    from edge_client.enrolment_file import enrol_at_first_start  # noqa: PLC0415 - loads cryptography

    if words := enrol_at_first_start(waiting):
        logging.getLogger(__name__).info("%s", words.splitlines()[0])


async def _run_until_stopped(config: DeviceConfig) -> None:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's products are small; graphs have threads of their own
    from edge_client.runner import run_device  # noqa: PLC0415 - a wrong file is reported without loading numpy and MQTT
    from edge_client.service_manager import STOPPING, ServiceManager  # noqa: PLC0415 - with the device
    from edge_client.status_socket import answering  # noqa: PLC0415 - with the device

    manager = ServiceManager()
    device = asyncio.ensure_future(run_device(config, manager=manager, answering=answering))

    def stop() -> None:
        manager.tell(STOPPING)
        _leave_after(STOP_SECONDS)
        device.cancel()

    loop = asyncio.get_running_loop()
    for name in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(name, stop)
    try:
        await device
    except asyncio.CancelledError:
        logging.getLogger(__name__).info("%s: stopped", config.device)


def _leave_after(seconds: float) -> None:
    leaving = threading.Timer(seconds, os._exit, (0,))
    leaving.daemon = True
    leaving.start()


if __name__ == "__main__":
    sys.exit(main())
