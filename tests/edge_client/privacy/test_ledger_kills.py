"""A thousand kills of a process that charges and then begins: what was begun is never more than the ledger says."""

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from edge_client.errors import BudgetSpentError
from edge_client.privacy.accountant import NOTHING
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import Charge
from edge_client.privacy.ledger import Ledger, read_ledger, read_witness
from tests.edge_client.privacy import charging_device
from tests.edge_client.privacy.charging_device import RELEASES, RUN

KILLS = 1_000
CAP = Cap(epsilon=8.0)
ROOT = Path(__file__).parents[3]


def spent(rounds: int) -> float:
    return NOTHING.spend(RELEASES * rounds).epsilon(CAP.delta)


MOST_ROUNDS = next(rounds for rounds in range(1000) if spent(rounds + 1) > CAP.epsilon)


def start() -> subprocess.Popen[str]:
    """With one thread, as it forks."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    line = [sys.executable, charging_device.__file__, str(CAP.epsilon)]
    return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def kill_after(process: subprocess.Popen[str], seconds: float, folder: Path) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{seconds} {folder}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "killed\n"


def check(folder: Path, before: int) -> tuple[int, str]:
    """What must hold whenever a process was killed; how many rounds are charged, and where it was killed."""
    book, witness = read_ledger(folder / "state"), read_witness(folder / "state")
    path = folder / "begun"
    begun = [int(line) for line in path.read_text().splitlines()] if path.exists() else []
    assert book.count >= before, "a charge was lost"
    assert book.count == (book.runs[RUN].entries if book.count else 0)
    assert len(set(begun)) == len(begun)
    assert set(begun) <= set(range(1, book.count + 1)), "a round was begun that is not charged"
    assert spent(len(begun)) <= book.account().epsilon(CAP.delta) * (1 + 1e-9)
    assert book.count <= MOST_ROUNDS, "the cap was passed"
    if witness is None:
        return book.count, "before anything"
    if book.count > witness.count:
        return book.count, "between an entry and its witness"
    return book.count, "begun" if book.count in begun else "charged and not begun"


def test_a_thousand_kills_never_begin_more_than_the_ledger_says(tmp_path):
    chance, found = random.Random(6), Counter[str]()
    with start() as process:
        while found.total() < KILLS:
            folder, count, longest = tmp_path / f"device-{found.total()}", 0, 0.05
            folder.mkdir()
            while count < MOST_ROUNDS and found.total() < KILLS:
                kill_after(process, chance.uniform(0, longest), folder)
                now, moment = check(folder, count)
                longest *= 0.8 if now - count > 2 else 1.25 if now == count else 1.0  # on a disk of any speed
                count = now
                found[moment] += 1
            if count == MOST_ROUNDS:
                kill_after(process, 0.01, folder)
                assert check(folder, count)[0] == MOST_ROUNDS
                with pytest.raises(BudgetSpentError):
                    Ledger(folder / "state", CAP).charge(None, Charge(RUN, 1, "training", RELEASES))
                found["budget spent"] += 1
        process.stdin.close()
        assert process.wait() == 0
    moments = ("before anything", "between an entry and its witness", "charged and not begun", "begun", "budget spent")
    assert min(found[moment] for moment in moments) > 0, found
