"""A device that does nothing but charge and begin, forked from a warm process for each line of standard input.

    python charging_device.py EPSILON      on a line "0.0123 FOLDER" forks, kills after so many seconds, says "killed"

The child opens the ledger in FOLDER/state, charges round after round and, once a charge has returned, writes the round
into the synced file FOLDER/begun, as training would begin there. When the budget is spent it waits to be killed.
"""

import os
import signal
import sys
import time
from pathlib import Path

from edge_client.errors import BudgetSpentError
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import Charge
from edge_client.privacy.ledger import Ledger
from wire_protocol.privacy import GaussianReleases

RUN, RELEASES = "digits", (GaussianReleases(0.9, 0.03, 40), GaussianReleases(20.0))


def charge_and_begin(folder: Path, cap: Cap) -> None:
    descriptor = os.open(folder / "begun", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    ledger = Ledger(folder / "state", cap)
    try:
        while True:
            number = ledger.count + 1
            ledger.charge(float(number), Charge(RUN, number, "training", RELEASES))
            os.write(descriptor, b"%d\n" % number)
            os.fsync(descriptor)
    except BudgetSpentError:
        signal.pause()


def main(cap: Cap) -> None:
    for line in sys.stdin:
        seconds, _, folder = line.rstrip().partition(" ")
        child = os.fork()
        if child == 0:
            try:
                charge_and_begin(Path(folder), cap)
            finally:
                os._exit(1)
        time.sleep(float(seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        sys.stdout.write("killed\n" if os.WIFSIGNALED(status) else "ended by itself\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main(Cap(epsilon=float(sys.argv[1])))
