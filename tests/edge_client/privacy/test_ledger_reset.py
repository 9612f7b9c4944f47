"""What an owner can still do once a ledger is refused, by the functions and by the command."""

import json
import subprocess
import sys

import pytest

from edge_client.durable_files import only_user_of
from edge_client.errors import LedgerError
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import Charge
from edge_client.privacy.ledger import Ledger, read_ledger
from edge_client.privacy.ledger_files import LEDGER_FILE, WITNESS_FILE
from edge_client.privacy.ledger_reset import MOST_KNOWN, Reset, reset_ledger
from wire_protocol.ledger_mark import MOST_ENTRIES, LedgerMark
from wire_protocol.privacy import GaussianReleases

CAP = Cap(epsilon=3.0)
STEPS = GaussianReleases(1.1, 0.02, 50)
NOON = 1_795_867_200.0
COMMAND = [sys.executable, "-m", "edge_client", "privacy"]
CONFIG = 'device = "pi"\nbroker = "mqtt://b"\nserver = "http://s"\ndata = "d.npz"\n[privacy]\nepsilon = 3\n'


def charged(state, rounds: int) -> Ledger:
    ledger = Ledger(state, CAP)
    for number in range(1, rounds + 1):
        ledger.charge(NOON, Charge("digits", number, "training", (STEPS,)))
    return ledger


def command(folder, *words: str) -> subprocess.CompletedProcess[str]:
    (folder / "device.toml").write_text(CONFIG)
    line = [*COMMAND, *words, "--config", str(folder / "device.toml")]
    return subprocess.run(line, capture_output=True, text=True, check=False)


def test_what_is_readable_stays_charged_and_the_count_goes_on(tmp_path):
    charged(tmp_path, 5)
    path = tmp_path / LEDGER_FILE
    lines = path.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"round":2', b'"rOund":2')
    lines[3] = b"0" + lines[3][1:]
    damaged = b"".join(lines)
    path.write_bytes(damaged)
    assert reset_ledger(tmp_path, NOON) == Reset(known=5, kept=4, refused=tmp_path / "ledger.refused-5")
    assert (tmp_path / "ledger.refused-5").read_bytes() == damaged
    ledger = Ledger(tmp_path, CAP)
    assert ledger.count == 6
    assert read_ledger(tmp_path).runs["digits"].kinds == {("record", 1.1, 0.02): 200}
    ledger.charge(NOON, Charge("digits", 6, "training", (STEPS,)))
    assert Ledger(tmp_path, CAP).count == 7


def test_after_a_deleted_ledger_the_count_still_only_grows(tmp_path):
    old = charged(tmp_path, 3)
    (tmp_path / LEDGER_FILE).unlink()
    assert reset_ledger(tmp_path, None) == Reset(known=3, kept=0, refused=None)
    new = Ledger(tmp_path, CAP)
    assert (new.count, new.epsilon) == (4, 0.0)
    new.seen_by_server(LedgerMark(3, old.head))  # what was before the reset is not here to be compared
    with pytest.raises(LedgerError, match="another charge 4"):
        new.seen_by_server(LedgerMark(4, old.head))


@pytest.mark.parametrize("name", [WITNESS_FILE, LEDGER_FILE])
def test_a_damaged_witness_or_ledger_loses_nothing_that_is_readable(tmp_path, name):
    charged(tmp_path, 3)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[:5] + b"!" + content[6:])
    assert (reset_ledger(tmp_path, NOON).kept, Ledger(tmp_path, CAP).count) == (3, 4)


def test_a_second_reset_loses_no_number(tmp_path):
    charged(tmp_path, 3)
    for expected in (4, 5):
        (tmp_path / LEDGER_FILE).unlink()
        reset_ledger(tmp_path, NOON)
        assert Ledger(tmp_path, CAP).count == expected
    (tmp_path / WITNESS_FILE).unlink()
    reset_ledger(tmp_path, NOON)
    assert Ledger(tmp_path, CAP).count == 6


def test_a_kill_between_the_new_ledger_and_its_witness_leaves_a_refused_one(tmp_path):
    charged(tmp_path, 3)
    witness = (tmp_path / WITNESS_FILE).read_bytes()
    (tmp_path / LEDGER_FILE).write_bytes(b"rubbish\n")
    reset_ledger(tmp_path, NOON)
    (tmp_path / WITNESS_FILE).write_bytes(witness)
    with pytest.raises(LedgerError, match="the ledger was replaced"):
        Ledger(tmp_path, CAP)
    reset_ledger(tmp_path, NOON)
    assert Ledger(tmp_path, CAP).count == 5


def test_a_whole_ledger_is_not_reset_unless_the_server_has_seen_more(tmp_path):
    ledger = charged(tmp_path, 3)
    with pytest.raises(LedgerError, match="ledger is whole and has 3 charges: nothing is to be accepted"):
        reset_ledger(tmp_path, NOON)
    assert Ledger(tmp_path, CAP).head == ledger.head
    seen = LedgerMark(9, b"?" * 32)
    with pytest.raises(LedgerError, match="the server has seen 9 charges"):
        ledger.seen_by_server(seen)
    assert reset_ledger(tmp_path, NOON) == Reset(known=9, kept=3, refused=tmp_path / "ledger.refused-9")
    new = Ledger(tmp_path, CAP)
    assert new.count == 10
    new.seen_by_server(seen)
    new.charge(NOON, Charge("digits", 4, "training", (STEPS,)))
    assert Ledger(tmp_path, CAP).epsilon == new.epsilon > ledger.epsilon


def test_a_server_that_makes_a_number_up_leaves_numbers_to_count_on_with(tmp_path):
    ledger = charged(tmp_path, 1)
    with pytest.raises(LedgerError, match="the server has seen"):
        ledger.seen_by_server(LedgerMark(MOST_ENTRIES, bytes(32)))
    reset_ledger(tmp_path, NOON)
    Ledger(tmp_path, CAP).charge(NOON, Charge("digits", 2, "training", (STEPS,)))
    assert Ledger(tmp_path, CAP).count == MOST_KNOWN + 2


def test_the_command_says_what_is_spent_and_what_is_left(tmp_path):
    state = tmp_path / "state"
    ledger = charged(state, 3)
    ledger.charge(NOON, Charge("faces", 9, "scores", (GaussianReleases(30.0),)))
    figures = json.loads(command(tmp_path, "status", "--json").stdout)
    assert figures["epsilon"] == pytest.approx(ledger.epsilon)
    assert (figures["epsilon_allowed"], figures["delta"], figures["count"]) == (3.0, 1e-5, 4)
    assert figures["unit"] == "record"
    assert figures["epsilon_left"] == pytest.approx(3.0 - ledger.epsilon)
    assert figures["head"] == ledger.head.hex()
    assert figures["last"] == {"time": NOON, "run": "faces", "round": 9, "purpose": "scores"}
    assert [(run["run"], run["charges"], run["last_round"]) for run in figures["runs"]] == [
        ("digits", 3, 3),
        ("faces", 1, 9),
    ]
    assert sum(run["epsilon"] for run in figures["runs"]) > figures["epsilon"]
    text = command(tmp_path, "status").stdout
    assert f"spent: epsilon {ledger.epsilon:.4g} of 3 at delta 1e-05, {3 - ledger.epsilon:.4g} left" in text
    assert "hidden is whether any one example is here" in text
    assert "entries: 4, the last 2026-11-28 12:00 UTC: scores of run faces, round 9" in text


def test_the_command_says_so_where_nothing_was_ever_charged(tmp_path):
    done = command(tmp_path, "status")
    assert (done.returncode, done.stdout) == (0, "spent: epsilon 0 of 3 at delta 1e-05, 3 left\nentries: 0\n")
    assert json.loads(command(tmp_path, "status", "--json").stdout)["last"] is None
    assert not (tmp_path / "state").exists()


def test_a_refused_ledger_is_one_line_that_names_the_way_out_which_must_be_meant(tmp_path):
    charged(tmp_path / "state", 3)
    (tmp_path / "state" / LEDGER_FILE).unlink()
    done = command(tmp_path, "status")
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "the ledger was deleted or rolled back; no private round begins until the owner accepts that" in done.stderr
    assert "fisherfleet-edge privacy reset --help" in done.stderr
    unmeant = command(tmp_path, "reset")
    assert unmeant.returncode == 2
    assert "--accept-lost-charges" in unmeant.stderr
    meant = command(tmp_path, "reset", "--accept-lost-charges")
    assert (meant.returncode, meant.stdout) == (0, "0 of 3 charges are still charged\n")
    assert "charges were lost, and the owner has accepted it" in command(tmp_path, "status").stdout
    again = command(tmp_path, "reset", "--accept-lost-charges")
    assert (again.returncode, "nothing is to be accepted" in again.stderr) == (2, True)


def test_nothing_is_reset_while_the_device_runs(tmp_path):
    state = tmp_path / "state"
    charged(state, 1)
    (state / WITNESS_FILE).unlink()
    with only_user_of(state):
        done = command(tmp_path, "reset", "--accept-lost-charges")
    assert (done.returncode, "is in use by another device process" in done.stderr) == (2, True)
    assert command(tmp_path, "reset", "--accept-lost-charges").returncode == 0
