"""The ledger on a real file system: what is charged, what is refused, what is noticed of a ledger that was touched."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest

from edge_client.errors import BudgetSpentError, LedgerDiskError, LedgerError
from edge_client.privacy.accountant import NOTHING
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import GENESIS, Book, Charge, Entry, RunTotal
from edge_client.privacy.ledger import Ledger, read_ledger, write_witness
from edge_client.privacy.ledger_files import LEDGER_FILE, WITNESS_FILE
from wire_protocol.errors import InvalidValueError
from wire_protocol.ledger_mark import LedgerMark
from wire_protocol.privacy import GaussianReleases

CAP = Cap(epsilon=3.0, delta=1e-5)
STEPS = GaussianReleases(1.1, 0.02, 50)
SCORES = GaussianReleases(30.0)
NOON = 1_795_867_200.0


def of_round(number: int, *releases: GaussianReleases, run: str = "digits") -> Charge:
    return Charge(run, number, "training", releases or (STEPS,))


def charged(state: Path, rounds: int) -> Ledger:
    ledger = Ledger(state, CAP)
    for number in range(1, rounds + 1):
        ledger.charge(NOON, of_round(number))
    return ledger


def spent(*releases: GaussianReleases) -> float:
    return NOTHING.spend(releases).epsilon(CAP.delta)


def test_a_device_that_was_never_charged_has_spent_nothing_and_has_no_files(tmp_path):
    ledger = Ledger(tmp_path / "state", CAP)
    assert (ledger.count, ledger.head, ledger.epsilon) == (0, GENESIS, 0.0)
    assert not (tmp_path / "state").exists()


def test_charges_of_all_runs_add_up_and_are_there_after_a_restart(tmp_path):
    ledger = Ledger(tmp_path, CAP)
    ledger.charge(NOON, of_round(1), Charge("digits", 1, "scores", (SCORES,)))
    ledger.charge(None, of_round(7, STEPS, SCORES, run="faces"))
    assert ledger.count == 3
    assert ledger.epsilon == pytest.approx(spent(STEPS, STEPS, SCORES, SCORES), rel=1e-12)
    again = Ledger(tmp_path, CAP)
    assert (again.count, again.head) == (3, ledger.head)
    assert again.epsilon == pytest.approx(ledger.epsilon, rel=1e-12)
    assert again.epsilon > spent(STEPS, STEPS)
    book = read_ledger(tmp_path)
    assert {run: (total.entries, total.last_round) for run, total in book.runs.items()} == {
        "digits": (2, 1),
        "faces": (1, 7),
    }
    assert book.last == Entry(3, None, of_round(7, STEPS, SCORES, run="faces"), book.last.salt)


def test_equal_releases_are_one_with_their_counts_added(tmp_path):
    charged(tmp_path, 5)
    assert read_ledger(tmp_path).runs == {"digits": RunTotal(5, 5, {("record", 1.1, 0.02): 250})}


def test_counts_beyond_what_one_release_can_say_are_not_lost():
    book = Book()
    most = GaussianReleases(1e8, 1.0, 2**53)
    for line in book.write([Entry(n, 0.0, of_round(n, most)) for n in (1, 2, 3)]).splitlines(keepends=True):
        book.read(line)
    assert book.account().epsilon(1e-5) == spent(most, most, most) > spent(most, most)


def test_what_would_pass_the_cap_is_refused_in_figures_and_nothing_is_appended(tmp_path):
    ledger = Ledger(tmp_path, Cap(epsilon=1.5, delta=1e-5))
    ledger.charge(NOON, of_round(1))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    figures = rf"from {spent(STEPS):.4g} to {spent(STEPS, GaussianReleases(1.0)):.4g} at delta 1e-05, .* allows 1.5$"
    with pytest.raises(BudgetSpentError, match=f"^training of run digits round 2 would take epsilon {figures}"):
        ledger.charge(NOON, of_round(2, GaussianReleases(1.0)))
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert ledger.count == 1
    ledger.charge(NOON, of_round(2))


def test_a_round_is_charged_as_a_whole_or_not_at_all(tmp_path):
    ledger = Ledger(tmp_path, CAP)
    with pytest.raises(BudgetSpentError, match="training of run digits round 1 and scores of run digits round 1 would"):
        ledger.charge(NOON, of_round(1), Charge("digits", 1, "scores", (GaussianReleases(0.5),)))
    assert Ledger(tmp_path, CAP).count == 0


def test_rounds_go_on_to_the_cap_and_not_past_it(tmp_path):
    ledger, rounds = Ledger(tmp_path, CAP), 0
    with suppress(BudgetSpentError):
        while True:
            ledger.charge(NOON, of_round(rounds + 1, GaussianReleases(8.0)))
            rounds += 1
    assert spent(GaussianReleases(8.0, 1.0, rounds)) <= CAP.epsilon < spent(GaussianReleases(8.0, 1.0, rounds + 1))
    with pytest.raises(BudgetSpentError):
        Ledger(tmp_path, CAP).charge(NOON, of_round(rounds + 1, GaussianReleases(8.0)))
    Ledger(tmp_path, Cap(epsilon=4.0)).charge(NOON, of_round(rounds + 1, GaussianReleases(8.0)))


def test_a_release_without_bound_is_refused(tmp_path):
    with pytest.raises(BudgetSpentError, match="to inf at"):
        Ledger(tmp_path, CAP).charge(NOON, of_round(1, GaussianReleases(1e-200)))


def test_everything_is_synced_before_a_charge_returns_the_entry_before_its_witness(tmp_path, monkeypatch):
    synced, fsync = [], os.fsync

    def noted(descriptor: int) -> None:
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        lines = (tmp_path / "state" / LEDGER_FILE).read_bytes().count(b"\n") if path.name == LEDGER_FILE else None
        synced.append((path.name, lines))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    ledger = Ledger(tmp_path / "state", CAP)
    ledger.charge(NOON, of_round(1))
    witness, state = (f"{WITNESS_FILE}.new", None), ("state", None)
    begun = [(tmp_path.name, None), witness, state]
    assert synced == [*begun, (LEDGER_FILE, 1), state, witness, state]
    synced.clear()
    ledger.charge(NOON, of_round(2))
    assert synced == [(LEDGER_FILE, 2), witness, state]


@pytest.mark.parametrize("kept", [0, 1, 5])
def test_a_last_line_that_power_loss_left_unfinished_was_never_charged(tmp_path, kept):
    """Of any length, as long as the witness does not know of it."""
    write_witness(tmp_path, Book().mark)
    charged(tmp_path, kept)
    path, known = tmp_path / LEDGER_FILE, (tmp_path / WITNESS_FILE).read_bytes()
    begin = path.stat().st_size if path.exists() else 0
    Ledger(tmp_path, CAP).charge(NOON, of_round(kept + 1))
    whole = path.read_bytes()
    for end in range(begin, len(whole) + 1):
        path.write_bytes(whole[:end])
        (tmp_path / WITNESS_FILE).write_bytes(known)
        ledger, counted = Ledger(tmp_path, CAP), kept + (end >= len(whole) - 1)
        assert ledger.count == counted, "a line that is whole but for its end counts"
        if end % 32 == 0 or end >= len(whole) - 2:
            ledger.charge(NOON, of_round(9, SCORES))
            again = Ledger(tmp_path, CAP)
            assert (again.count, again.head) == (ledger.count, ledger.head)
            assert again.count == counted + 1


def test_a_last_line_of_zeros_or_with_lost_pages_was_never_charged_either(tmp_path):
    charged(tmp_path, 3)
    witness, three = (tmp_path / WITNESS_FILE).read_bytes(), (tmp_path / LEDGER_FILE).read_bytes()
    Ledger(tmp_path, CAP).charge(NOON, of_round(4))
    line = (tmp_path / LEDGER_FILE).read_bytes()[len(three) :]
    (tmp_path / WITNESS_FILE).write_bytes(witness)
    for tail in (bytes(len(line)), bytes(40) + line[40:], line[:40] + bytes(len(line) - 40), bytes(4000)):
        (tmp_path / LEDGER_FILE).write_bytes(three + tail)
        (tmp_path / WITNESS_FILE).write_bytes(witness)
        ledger = Ledger(tmp_path, CAP)
        assert ledger.count == 3
        ledger.charge(NOON, of_round(4))
        written = (tmp_path / LEDGER_FILE).read_bytes()
        assert (written[: len(three)], len(written)) == (three, len(three + line))
        assert Ledger(tmp_path, CAP).count == 4
    (tmp_path / LEDGER_FILE).write_bytes(three + bytes(40) + line[40:] + line)
    (tmp_path / WITNESS_FILE).write_bytes(witness)
    with pytest.raises(LedgerError, match="the line after charge 3 is damaged"):
        Ledger(tmp_path, CAP)


def test_a_charge_that_was_returned_is_never_dropped_as_unfinished(tmp_path):
    charged(tmp_path, 3)
    path = tmp_path / LEDGER_FILE
    whole = path.read_bytes()
    last = whole.rindex(b"\n", 0, -1) + 1
    for end in range(last, len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(
            LedgerError, match=r"3 charges were made and (the line after charge 2 is damaged|2 are here)"
        ):
            Ledger(tmp_path, CAP)


def test_a_changed_bit_anywhere_is_refused_and_nothing_can_be_charged(tmp_path):
    ledger = charged(tmp_path, 3)
    for name in (LEDGER_FILE, WITNESS_FILE):
        path = tmp_path / name
        whole = path.read_bytes()
        for at in range(len(whole)):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(LedgerError, match="no private round begins until the owner accepts that"):
                Ledger(tmp_path, CAP)
        path.write_bytes(whole)
    assert Ledger(tmp_path, CAP).head == ledger.head


def test_lines_taken_out_put_in_or_swapped_are_refused(tmp_path):
    charged(tmp_path, 4)
    path = tmp_path / LEDGER_FILE
    one, two, three, four = path.read_bytes().splitlines(keepends=True)
    for lines in (
        [one, three, four],
        [one, two, two, three, four],
        [two, one, three, four],
        [b"\n", one, two, three, four],
    ):
        path.write_bytes(b"".join(lines))
        with pytest.raises(LedgerError, match="is damaged"):
            Ledger(tmp_path, CAP)


def _deleted(state: Path) -> None:
    (state / LEDGER_FILE).unlink()


def _emptied(state: Path) -> None:
    (state / LEDGER_FILE).write_bytes(b"")


def _rolled_back(state: Path) -> None:
    lines = (state / LEDGER_FILE).read_bytes().splitlines(keepends=True)
    (state / LEDGER_FILE).write_bytes(b"".join(lines[:-1]))


def _another(state: Path) -> None:
    other = state / "other"
    ledger = Ledger(other, CAP)
    for number in (1, 2, 4):
        ledger.charge(NOON, of_round(number))
    shutil.copy(other / LEDGER_FILE, state / LEDGER_FILE)


def _witness_deleted(state: Path) -> None:
    (state / WITNESS_FILE).unlink()


@pytest.mark.parametrize(
    ("touch", "complaint"),
    [
        (_deleted, "3 charges were made and 0 are here: the ledger was deleted or rolled back"),
        (_emptied, "3 charges were made and 0 are here: the ledger was deleted or rolled back"),
        (_rolled_back, "3 charges were made and 2 are here: the ledger was deleted or rolled back"),
        (_another, "charge 3 is another than was made: the ledger was replaced"),
        (_witness_deleted, r"ledger\.witness is missing"),
    ],
)
def test_a_ledger_that_does_not_fit_its_witness_is_refused(tmp_path, touch, complaint):
    running = charged(tmp_path, 3)
    touch(tmp_path)
    with pytest.raises(LedgerError, match=rf"ledger: {complaint}; .* accepts that: fisherfleet-edge privacy reset"):
        Ledger(tmp_path, CAP)
    if touch in (_deleted, _emptied, _rolled_back):  # what is on disk is looked at before each charge, too
        with pytest.raises(LedgerError, match="another hand was at it"):
            running.charge(NOON, of_round(4))
        with pytest.raises(LedgerError, match="the ledger was deleted or rolled back"):
            running.charge(NOON, of_round(4))


@pytest.fixture
def two_copies(tmp_path):
    """A device's ledger with two charges, and a copy of its state folder."""
    return charged(tmp_path / "one", 2), Path(shutil.copytree(tmp_path / "one", tmp_path / "other"))


def test_both_files_rolled_back_together_are_noticed_by_what_the_server_has_seen(two_copies):
    ledger, backup = two_copies
    seen = ledger.charge(NOON, of_round(3))
    ledger.seen_by_server(seen)
    old = Ledger(backup, CAP)
    old.seen_by_server(read_ledger(backup).mark)
    with pytest.raises(LedgerError, match="seen 3 charges and 2 are here: the ledger was deleted or rolled"):
        old.seen_by_server(seen)
    old.seen_by_server(seen)  # said once
    with pytest.raises(LedgerError, match="the server has seen 3 charges"):
        old.charge(NOON, of_round(3))
    with pytest.raises(LedgerError, match="3 charges were made and 2 are here"):
        Ledger(backup, CAP)


def test_a_copied_ledger_is_refused_once_the_server_has_seen_what_the_other_charged(two_copies):
    ledger, path = two_copies
    seen = ledger.charge(NOON, of_round(3))
    copy = Ledger(path, CAP)
    copy.charge(NOON, of_round(3, SCORES))
    copy.charge(NOON, of_round(4))
    with pytest.raises(LedgerError, match="another charge 3 than is here: the device's state was copied"):
        copy.seen_by_server(seen)
    with pytest.raises(LedgerError, match="another charge 3"):
        copy.require_allowed(of_round(5))
    with pytest.raises(LedgerError, match="charge 3 is another than was made: the ledger was replaced"):
        Ledger(path, CAP)
    ledger.charge(NOON, of_round(4))
    ledger.seen_by_server(seen)


def test_two_copies_whose_clocks_say_the_same_differ_from_their_next_charge_on(two_copies):
    ledger, path = two_copies
    copy = Ledger(path, CAP)
    assert copy.head == ledger.head
    seen = ledger.charge(None, of_round(3))
    copy.charge(None, of_round(3))
    with pytest.raises(LedgerError, match="another charge 3"):
        copy.seen_by_server(seen)


def test_a_lost_state_folder_is_noticed_and_stays_refused(tmp_path):
    charged(tmp_path / "before", 2)
    seen = read_ledger(tmp_path / "before").mark
    fresh = Ledger(tmp_path / "after", CAP)
    fresh.seen_by_server(LedgerMark(0, GENESIS))
    with pytest.raises(LedgerError, match="2 charges and 0 are here"):
        fresh.seen_by_server(seen)
    with pytest.raises(LedgerError, match="2 charges were made and 0 are here"):
        Ledger(tmp_path / "after", CAP)


def test_where_the_refusal_cannot_be_written_down_it_stands_while_the_device_runs(tmp_path, monkeypatch):
    ledger = charged(tmp_path, 1)
    monkeypatch.setattr(os, "fsync", _no_room)
    with pytest.raises(LedgerDiskError, match=r"seen 9 charges .* it cannot be written down: the disk is full"):
        ledger.seen_by_server(LedgerMark(9, bytes(32)))
    monkeypatch.undo()
    with pytest.raises(LedgerError, match="seen 9 charges"):
        ledger.charge(NOON, of_round(2))


def test_a_full_disk_fails_the_charge_and_the_next_one_finds_what_is_there(tmp_path, monkeypatch):
    ledger = charged(tmp_path, 1)
    monkeypatch.setattr(os, "fsync", _no_room)
    with pytest.raises(LedgerDiskError, match="ledger cannot be written: the disk is full"):
        ledger.charge(NOON, of_round(2))
    assert ledger.count == 1
    monkeypatch.undo()
    ledger.charge(NOON, of_round(3))
    assert Ledger(tmp_path, CAP).count == ledger.count == 3  # what may be on disk counts


def test_a_witness_that_cannot_be_written_leaves_the_charge_counted(tmp_path, monkeypatch):
    ledger = charged(tmp_path, 1)
    (tmp_path / f"{WITNESS_FILE}.new").mkdir()
    with pytest.raises(LedgerDiskError, match="ledger cannot be written"):
        ledger.charge(NOON, of_round(2))
    assert Ledger(tmp_path, CAP).count == ledger.count == 2
    (tmp_path / f"{WITNESS_FILE}.new").rmdir()
    ledger.charge(NOON, of_round(2))
    assert Ledger(tmp_path, CAP).count == 3


def _no_room(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_a_ledger_that_cannot_be_read_is_trouble_of_the_disk_not_of_the_ledger(tmp_path):
    (tmp_path / LEDGER_FILE).mkdir()
    with pytest.raises(LedgerDiskError, match="ledger cannot be read"):
        Ledger(tmp_path, CAP)


@pytest.mark.parametrize(
    ("run", "number", "releases"),
    [("", 1, [STEPS]), ("a b", 1, [STEPS]), ("r", 0, [STEPS]), ("r", 1, []), ("r", 1, [STEPS] * 17)],
)
def test_a_charge_that_says_nothing_is_refused(run, number, releases):
    with pytest.raises((InvalidValueError, msgspec.ValidationError)):
        msgspec.convert(msgspec.to_builtins(Charge(run, number, "training", tuple(releases))), Charge)


def test_a_hundred_thousand_charges_are_a_few_numbers(tmp_path):
    book = Book()
    lines = book.write(Entry(n, NOON + n, of_round(n)) for n in range(1, 100_001))
    for line in lines.splitlines(keepends=True):
        book.read(line)
    assert book.runs == {"digits": RunTotal(100_000, 100_000, {("record", 1.1, 0.02): 5_000_000})}
    assert book.head_at(100_000) == book.head
    assert book.head_at(100_001) is None
