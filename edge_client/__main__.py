"""`fisherfleet-edge --config device.toml`: run one device until it is stopped.

`fisherfleet-edge fit --config device.toml` says what it would train, and why; `fisherfleet-edge privacy status` what
private runs have spent;
`fisherfleet-edge enrol` makes its keys and enrols it.
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
from pathlib import Path

from edge_client.config import DeviceConfig, load_config
from edge_client.errors import StartAgainError
from wire_protocol.errors import FisherfleetError

EXIT_REFUSED = 2
EXIT_AGAIN = 75
"""Asks to be started again at once, for another release: `RestartForceExitStatus=` of the unit; EX_TEMPFAIL."""
ENROLMENT_FILE = "enrol.toml"
"""Beside `device.toml`: what a device that has none yet enrols with (`enrolment_file.py`)."""
STOP_SECONDS = 8.0
"""A training halts at its next step. What hangs longer, as a download from a server that is silent, is left: that a
kill at any moment does no harm is what the device is built for.
"""


def main(argv: Sequence[str] | None = None, prog: str = "fisherfleet-edge") -> int:
    """Run a device; returns 0 when it was stopped, 2 when it could not start, 75 when it is to be started again."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["fit"]:
        from edge_client.fit_command import main as fit  # noqa: PLC0415 - loads numpy and onnxruntime

        return fit(words[1:], f"{prog} fit")
    if words[:1] == ["privacy"]:
        from edge_client.privacy.command import main as privacy  # noqa: PLC0415 - loads numpy

        return privacy(words[1:], f"{prog} privacy")
    if words[:1] == ["enrol"]:
        from edge_client.enrolment import main as enrol  # noqa: PLC0415 - loads cryptography

        return enrol(words[1:], f"{prog} enrol")
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
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train on this device's own data and send what changed to a Fisherfleet server.",
        epilog=f"{prog} fit --config FILE says how much of the model it would train within its limits, and why; "
        f"{prog} privacy status --config FILE what private runs have spent; {prog} enrol --help how to enrol.",
    )
    parser.add_argument("--config", type=Path, required=True, help="the device's TOML file (see docs)")
    parser.add_argument("--verbose", action="store_true", help="log every message")
    return parser


def _enrol_at_first_start(config: Path) -> None:
    waiting = config.with_name(ENROLMENT_FILE)
    if not waiting.exists():
        return
    from edge_client.enrolment_file import enrol_at_first_start  # noqa: PLC0415 - loads cryptography

    for line in (enrol_at_first_start(waiting) or "").splitlines():
        logging.getLogger(__name__).info("%s", line)


async def _run_until_stopped(config: DeviceConfig) -> None:
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy's products are small; graphs have threads of their own
    from edge_client.runner import run_device  # noqa: PLC0415 - a wrong file is reported without loading numpy and MQTT
    from edge_client.service_manager import STOPPING, ServiceManager  # noqa: PLC0415 - with the device

    manager = ServiceManager()
    device = asyncio.ensure_future(run_device(config, manager=manager))

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
