"""A program that starts servers and kills them with SIGKILL, where or when it is told.

Each line of standard input is JSON `[point, times, seconds, options of fisherfleet serve]`: the server is a fork of
this process and is killed when `point` is reached for the `times`-th time, or so many seconds later; without a point
so many seconds after it began, wherever it is then, and never if they are 0. A service without a bundle serves for
ever, and is told to end (SIGTERM) once no run of its state folder goes on. How it ended is printed: 0, -9, or what else
its status was.
"""

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from server.__main__ import command_parser
from server.__main__ import main as serve
from server.blobs import Blobs
from server.database_url import given_database
from server.model_archive import ModelArchive
from server.model_files import ModelFiles
from server.model_offers import ModelOffers
from server.run_status import ACTIVE
from server.spool import Segment, Spool
from server.storage import Store
from server.update_rows import UpdateRows

ENDED = 143
"""The status of a service without a bundle whose runs are over."""
_POLL_SECONDS = 0.1

POINTS: dict[str, tuple[type, str, bool]] = {
    "before a batch is written": (Segment, "write", False),
    "between the spool's fsync and the commit": (Segment, "write", True),
    "between the commit and the receipts": (UpdateRows, "commit", True),
    "between the model and the close": (ModelFiles, "save_version", True),
    "between a version's content and its row": (Blobs, "put", True),
    "between the archived version and the close": (ModelArchive, "add", True),
    "before the model is written": (ModelFiles, "save_version", False),
    "between the close and the deletion of the segment": (Store, "close_round", True),
    "before the segment is deleted": (Spool, "delete_others", False),
    "between the opening and the plan": (Store, "open_round", True),
    "before a round is opened": (Store, "open_round", False),
    "between the model's difference and the opening": (ModelOffers, "publish_since", True),
    "while states are written": (Store, "save_devices", True),
}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def arm(point: str, times: int, seconds: float) -> None:
    kind, name, after = POINTS[point]
    function: Callable[..., Any] = getattr(kind, name)
    calls = 0

    def deadly(*arguments: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != times:
            return function(*arguments)
        if seconds:
            threading.Timer(seconds, die).start()
        elif not after:
            die()
        result = function(*arguments)
        if not seconds:
            die()
        return result

    setattr(kind, name, deadly)


def end_when_over(options: list[str]) -> None:
    arguments = command_parser().parse_args(options)
    store = Store(arguments.state, given_database(arguments.database))
    while any(record.status in ACTIVE for record in store.runs()):
        time.sleep(_POLL_SECONDS)
    os.kill(os.getpid(), signal.SIGTERM)


def main() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    for line in sys.stdin:
        point, times, seconds, options = json.loads(line)
        child = os.fork()
        if not child:
            os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
            if point:
                arm(point, times, seconds)
            if not any(option.startswith("--bundle") for option in options):
                threading.Thread(target=end_when_over, args=(options,), daemon=True).start()
            os._exit(serve(options))
        if not point and seconds and signal.sigtimedwait([signal.SIGCHLD], seconds) is None:
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        signal.sigtimedwait([signal.SIGCHLD], 0)
        sys.stdout.write(f"{os.waitstatus_to_exitcode(status)}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
