"""An owner's word that charges are lost: a ledger that was refused goes on with what can still be made out of it.

What is readable stays charged. The entry that says so has a number after all that were ever known, so that the count
still only grows, whoever remembers it. The refused file is kept beside the new one.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from edge_client.durable_files import plainly, write_durably
from edge_client.errors import LedgerDiskError, LedgerError
from edge_client.privacy.charges import Book, Entry, salvage
from edge_client.privacy.ledger import lines_of, read_ledger, read_witness, write_witness
from edge_client.privacy.ledger_files import LEDGER_FILE
from wire_protocol.ledger_mark import MOST_ENTRIES

MOST_KNOWN = MOST_ENTRIES // 2
"""A higher number comes of no charges: a server that makes one up leaves as many for later."""


@dataclass(frozen=True)
class Reset:
    """Of `known` charges `kept` are still charged; `refused` is the file as it was, None where there was none."""

    known: int
    kept: int
    refused: Path | None


def reset_ledger(state: Path, moment: float | None) -> Reset:
    """Make a ledger that can be read again out of one that was refused.

    Raises `LedgerError` where nothing is wrong, `LedgerDiskError` where the disk fails; a kill on the way leaves the
    refused ledger or a refused one. `moment` is Unix time in seconds.
    """
    _require_refused(state)
    path = state / LEDGER_FILE
    try:
        kept = list(salvage(lines_of(path)))
        known = min(max(_known(state), len(kept)), MOST_KNOWN)
        refused = path.with_name(f"{LEDGER_FILE}.refused-{known}") if path.exists() else None
        if refused is not None:
            write_durably(refused, lines_of(path))
        book = Book()
        entries = [Entry(number, entry.time, entry.charge, entry.salt) for number, entry in enumerate(kept, start=1)]
        lines = book.write([*entries, Entry(known + 1, moment, None)])
        for line in lines.splitlines(keepends=True):
            book.read(line)
        write_durably(path, [lines])
        write_witness(state, book.mark)
    except OSError as error:
        raise LedgerDiskError(f"{path} cannot be written: {plainly(error)}") from error
    return Reset(known, len(kept), refused)


def _require_refused(state: Path) -> None:
    try:
        count = read_ledger(state).count
    except LedgerError:
        return
    raise LedgerError(f"{state / LEDGER_FILE} is whole and has {count} charges: nothing is to be accepted")


def _known(state: Path) -> int:
    """The highest number that the witness or the readable beginning of the ledger tells of."""
    book, witness = Book(), None
    with suppress(LedgerError):
        for line in lines_of(state / LEDGER_FILE):
            book.read(line)
    with suppress(LedgerError):
        witness = read_witness(state)
    return book.count if witness is None else max(book.count, witness.count)
