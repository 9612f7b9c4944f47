"""A device's privacy ledger: what was charged is on disk before anything is computed from an example, or it raises.

    <state>/ledger            one line a charge, appended and never changed: edge_client/privacy/charges.py
    <state>/ledger.witness    how many entries the ledger has, and the checksum of the last

An entry is synced first, then the witness is replaced, then `charge` returns. So a ledger that is shorter than its
witness, or has another entry where the witness points, was deleted, rolled back or replaced, and is refused; one that
is longer was killed between both, and counts what nobody began. Where the server has seen what is not in the ledger,
its word becomes the witness, so that the ledger is refused from then on. docs/privacy-ledger.md says what is noticed.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from secrets import token_hex
from threading import Lock

import msgspec

from edge_client.card_wear import note
from edge_client.durable_files import plainly, read_checked, write_checked
from edge_client.errors import BudgetSpentError, DamagedFileError, LedgerDiskError, LedgerError
from edge_client.privacy.account import Account
from edge_client.privacy.cap import Cap
from edge_client.privacy.charges import MAX_LINE, Book, Charge, Entry, read_book
from edge_client.privacy.ledger_files import LEDGER_FILE, WITNESS_FILE
from wire_protocol.durable_files import sync_folder
from wire_protocol.ledger_mark import LedgerMark

MAX_WITNESS_BYTES = 1024
_GONE = "the ledger was deleted or rolled back"


class Ledger:
    """The ledger in the device's `state` folder, which is made by the first charge. Any thread may call; calls block.

    Raises `LedgerError` where the files are not as they were left, `LedgerDiskError` where they cannot be read.
    """

    def __init__(self, state: Path, cap: Cap) -> None:
        self._state, self._cap = state, cap
        self._lock = Lock()
        self._book = read_ledger(state)
        self._account = self._book.account()
        self._stale = False
        self._refused = ""

    @property
    def count(self) -> int:
        """The number of the last entry, 0 where there is none: it only ever grows."""
        return self._book.count

    @property
    def head(self) -> bytes:
        """The checksum of the last entry, 32 bytes: no two histories have the same, nor two copies once they go on."""
        return self._book.head

    @property
    def epsilon(self) -> float:
        """What all entries have spent, at the cap's delta."""
        return self._account.epsilon(self._cap.delta)

    def require_allowed(self, *charges: Charge) -> None:
        """Raise what `charge` would raise before it writes; nothing is charged."""
        with self._lock:
            self._allowed(charges)

    def charge(self, moment: float | None, *charges: Charge) -> LedgerMark:
        """Charge what a round is about to release, all of it or nothing; on disk when this returns how far it came.

        `moment` is Unix time in seconds, None where the clock was never set. Raises `BudgetSpentError` where it would
        take epsilon past the cap, `LedgerError` where another hand changed the file, `LedgerDiskError` where the disk
        fails: then it may count as charged.
        """
        with self._lock:
            would = self._allowed(charges)
            first = self._book.count + 1
            entries = [Entry(first + at, moment, charge, token_hex(8)) for at, charge in enumerate(charges)]
            try:
                self._append(entries)
                self._account = would
                write_witness(self._state, self._book.mark)
            except OSError as error:
                raise LedgerDiskError(f"{self._state / LEDGER_FILE} cannot be written: {plainly(error)}") from error
            return self._book.mark

    def seen_by_server(self, seen: LedgerMark) -> None:
        """What an update of this device told the server must be in the ledger.

        Raises `LedgerError` where it is not, once: then the ledger is refused, after a restart too, and `charge` says
        why. Raises `LedgerDiskError` where the disk fails: then the refusal ends with this process.
        """
        with self._lock:
            problem = "" if self._refused else self._missing(seen)
            if not problem:
                return
            self._refused = f"{self._state / LEDGER_FILE}: {problem}; {_WAY_OUT}"
            try:
                self._state.mkdir(parents=True, exist_ok=True)
                write_witness(self._state, seen)
            except OSError as error:
                raise LedgerDiskError(f"{self._refused}; it cannot be written down: {plainly(error)}") from error
            raise LedgerError(self._refused)

    def _missing(self, seen: LedgerMark) -> str:
        if seen.count > self._book.count:
            return f"the server has seen {seen.count} charges and {self._book.count} are here: {_GONE}"
        if self._book.head_at(seen.count) not in (None, seen.head):
            return f"the server has seen another charge {seen.count} than is here: the device's state was copied"
        return ""

    def _read_again(self) -> None:
        self._book = read_ledger(self._state)
        self._account = self._book.account()
        self._stale = False

    def _allowed(self, charges: tuple[Charge, ...]) -> Account:
        """The account after these charges; raises as `charge` does."""
        if self._refused:
            raise LedgerError(self._refused)
        if self._stale:
            self._read_again()
        would = self._account
        for charge in charges:
            would = would.spend(charge.unit, charge.releases)
        epsilon = would.epsilon(self._cap.delta)
        if not epsilon <= self._cap.epsilon:
            what = " and ".join(f"{one.purpose} of run {one.run} round {one.round}" for one in charges)
            raise BudgetSpentError(
                f"{what} would take epsilon from {self.epsilon:.4g} to {epsilon:.4g} at delta {self._cap.delta:g}, "
                f"privacy.epsilon allows {self._cap.epsilon:g}"
            )
        return would

    def _append(self, entries: list[Entry]) -> None:
        """Write in the place of an unfinished line; raises `OSError`, and then what is on disk is read again."""
        path, lines = self._state / LEDGER_FILE, self._book.write(entries)
        self._stale = True
        if self._book.size == 0:
            self._begin()
        with os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT), "r+b") as file:
            self._require_untouched(os.fstat(file.fileno()).st_size)
            file.truncate(self._book.size)
            file.seek(self._book.size)
            note(path, file.write(lines))
            file.flush()
            os.fsync(file.fileno())
        if self._book.size == 0:
            sync_folder(self._state)
        for line in lines.splitlines(keepends=True):
            self._book.read(line)
        self._book.tail = 0
        self._stale = False

    def _begin(self) -> None:
        """Before the first entry: from now on a missing file is noticed."""
        self._state.mkdir(parents=True, exist_ok=True)
        sync_folder(self._state.parent)
        if not (self._state / WITNESS_FILE).exists():
            write_witness(self._state, self._book.mark)

    def _require_untouched(self, size: int) -> None:
        expected = self._book.size + self._book.tail
        if size != expected:
            raise LedgerError(
                f"{self._state / LEDGER_FILE} has {size} bytes, {expected} were left: another hand was at it"
            )


def read_ledger(state: Path) -> Book:
    """What the ledger in a folder says, checked against its witness; raises `LedgerError` or `LedgerDiskError`."""
    path = state / LEDGER_FILE
    try:
        witness = read_witness(state)
        book = read_book(lines_of(path))
    except LedgerError as error:
        raise LedgerError(f"{path}: {error}; {_WAY_OUT}") from error
    except OSError as error:
        raise LedgerDiskError(f"{path} cannot be read: {plainly(error)}") from error
    problem = _mismatch(book, witness)
    if problem is not None:
        raise LedgerError(f"{path}: {problem}; {_WAY_OUT}")
    return book


_WAY_OUT = "no private round begins until the owner accepts that: fisherfleet-edge privacy reset --help"


def _mismatch(book: Book, witness: LedgerMark | None) -> str | None:
    if witness is None:
        return None if book.size + book.tail == 0 else f"{WITNESS_FILE} is missing"
    if book.count < witness.count and book.tail > 0:
        return f"{witness.count} charges were made and the line after charge {book.count} is damaged"
    if book.count < witness.count:
        return f"{witness.count} charges were made and {book.count} are here: {_GONE}"
    if book.head_at(witness.count) != witness.head:
        return f"charge {witness.count} is another than was made: the ledger was replaced"
    return None


def lines_of(path: Path) -> Iterator[bytes]:
    """The lines of a ledger, none where there is no file, none longer than `MAX_LINE`; raises `OSError`."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return
    with file:
        yield from iter(lambda: file.readline(MAX_LINE), b"")


def read_witness(state: Path) -> LedgerMark | None:
    """What the witness says, None where there is none; raises `LedgerError` or `OSError`."""
    try:
        return msgspec.msgpack.decode(read_checked(state / WITNESS_FILE, MAX_WITNESS_BYTES), type=LedgerMark)
    except FileNotFoundError:
        return None
    except (DamagedFileError, msgspec.DecodeError, ValueError, RecursionError) as error:
        raise LedgerError(f"{WITNESS_FILE} is damaged") from error


def write_witness(state: Path, mark: LedgerMark) -> None:
    """Bring to disk how far the ledger must have come; raises `OSError`."""
    write_checked(state / WITNESS_FILE, msgspec.msgpack.encode(mark))
