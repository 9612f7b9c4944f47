"""A privacy ledger's text: what was charged, one line each, and what the lines add up to. No I/O.

    <SHA-256, hexadecimal> {"number":7,"time":1764313533.5,"charge":{"run":"digits","round":3,"purpose":"training",
        "releases":[{"noise_multiplier":1.1,"sampling_rate":0.05,"count":20}]},"salt":"9f86d081884c7d65"}

A line's checksum is over the checksum before it and its JSON, so that no line can be changed, taken out or put in
without all that follow. Numbers rise by one. An entry without a charge is the owner's word that some before it are lost
(`edge_client/privacy/ledger_reset.py`); only there may numbers be skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Annotated, Literal

import msgspec

from edge_client.errors import LedgerError
from edge_client.privacy.account import Account, Unit
from wire_protocol.ledger_mark import HEAD_BYTES, MOST_ENTRIES, LedgerMark
from wire_protocol.privacy import MOST_RELEASES, GaussianReleases
from wire_protocol.topics import require_identifier

Purpose = Literal["training", "scores", "update"]
"""Steps of private training, neurons' scores, or a whole update noised by its device."""

GENESIS = sha256(b"fisherfleet privacy ledger 1").digest()
"""The head of a ledger without entries."""
MAX_LINE = 4096
MAX_RELEASES = 16
_LINE = re.compile(rb"([0-9a-f]{64}) (\{.*\})\n?")
_SOME_JSON = re.compile(rb"\{.*\}")

Kind = tuple[Unit, float, float]
"""What is protected, noise multiplier and sampling rate: releases that share them add up."""


class Charge(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a round of a run is about to release, 1 to `MAX_RELEASES` kinds."""

    run: str
    round: Annotated[int, msgspec.Meta(ge=1, le=2**53)]
    purpose: Purpose
    releases: Annotated[tuple[GaussianReleases, ...], msgspec.Meta(min_length=1, max_length=MAX_RELEASES)]

    def __post_init__(self) -> None:
        require_identifier("run", self.run)

    @property
    def unit(self) -> Unit:
        """What its releases are counted for."""
        return "device" if self.purpose == "update" else "record"


class Entry(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`time` is Unix time in seconds, None where the clock was never set; without a `charge` it is an owner's reset.

    `salt`, 16 random hexadecimal digits where it was charged, tells the charges of two copies of a device apart.
    """

    number: Annotated[int, msgspec.Meta(ge=1, le=MOST_ENTRIES)]
    time: float | None
    charge: Charge | None
    salt: Annotated[str, msgspec.Meta(pattern="^([0-9a-f]{16})?$")] = ""


@dataclass
class RunTotal:
    """What one run was charged: how many entries, the last round, and how many releases of each kind."""

    entries: int = 0
    last_round: int = 0
    kinds: dict[Kind, int] = field(default_factory=dict)

    def add(self, charge: Charge) -> None:
        """Count one more charge."""
        self.entries += 1
        self.last_round = max(self.last_round, charge.round)
        for one in charge.releases:
            kind = (charge.unit, one.noise_multiplier, one.sampling_rate)
            self.kinds[kind] = self.kinds.get(kind, 0) + one.count

    def add_to(self, account: Account) -> Account:
        """The account with all of them, equal ones together."""
        for (unit, noise, rate), total in self.kinds.items():
            pieces = (min(MOST_RELEASES, total - begin) for begin in range(0, total, MOST_RELEASES))
            account = account.spend(unit, (GaussianReleases(noise, rate, count) for count in pieces))
        return account


@dataclass
class Book:
    """What a ledger's lines add up to: `count` is the last entry's number, `head` its checksum.

    The lines have `size` bytes, the last one lacks its end of line if it `ends_open`; after them `tail` bytes are of a
    line that was never finished. Checksums are known from entry `known_from` on.
    """

    count: int = 0
    head: bytes = GENESIS
    size: int = 0
    tail: int = 0
    last: Entry | None = None
    ends_open: bool = False
    runs: dict[str, RunTotal] = field(default_factory=dict)
    known_from: int = 0
    _heads: bytearray = field(default_factory=lambda: bytearray(GENESIS), repr=False)

    def read(self, line: bytes) -> None:
        """Add the line that comes next; its end may come later. Raises `LedgerError` and adds nothing."""
        if self.ends_open and line == b"\n":
            self.ends_open, self.size = False, self.size + 1
            return
        found = None if self.ends_open else _LINE.fullmatch(line)
        if found is None or sha256(self.head + found[2]).hexdigest().encode() != found[1]:
            raise LedgerError("its checksum does not fit")
        entry = decode_entry(found[2])
        skips = entry.charge is None and entry.number > self.count
        if entry.number != self.count + 1 and not skips:
            raise LedgerError(f"it has number {entry.number} after {self.count}")
        self._add(entry, bytes.fromhex(found[1].decode()))
        self.size += len(line)
        self.ends_open = not line.endswith(b"\n")

    def write(self, entries: Iterable[Entry]) -> bytes:
        """What makes these entries the next ones of the file; `read` takes it line by line."""
        head, lines = self.head, [b"\n"] if self.ends_open else []
        for entry in entries:
            body = msgspec.json.encode(entry)
            head = sha256(head + body).digest()
            lines.append(b"%s %s\n" % (head.hex().encode(), body))
        return b"".join(lines)

    @property
    def mark(self) -> LedgerMark:
        """How far the ledger has come."""
        return LedgerMark(self.count, self.head)

    def head_at(self, number: int) -> bytes | None:
        """The checksum of an entry, None where it is not known: before a reset, or after the last."""
        if not self.known_from <= number <= self.count:
            return None
        at = (number - self.known_from) * HEAD_BYTES
        return bytes(self._heads[at : at + HEAD_BYTES])

    def account(self) -> Account:
        """What all that was ever charged has spent."""
        account = Account()
        for total in self.runs.values():
            account = total.add_to(account)
        return account

    def _add(self, entry: Entry, head: bytes) -> None:
        if entry.charge is None:
            self.known_from = entry.number
            self._heads.clear()
        else:
            self.runs.setdefault(entry.charge.run, RunTotal()).add(entry.charge)
        self._heads += head
        self.count, self.head, self.last = entry.number, head, entry


def read_book(lines: Iterable[bytes]) -> Book:
    """Add up the lines of a ledger; raises `LedgerError`. A last line that does not fit is taken for unfinished."""
    book, rest, line = Book(), iter(lines), b""
    try:
        for line in rest:
            book.read(line)
    except LedgerError as error:
        if next(rest, None) is not None:
            raise LedgerError(f"the line after charge {book.count} is damaged: {error}") from error
        book.tail = len(line)
    return book


def decode_entry(body: bytes) -> Entry:
    """An entry from its JSON; raises `LedgerError`."""
    try:
        return msgspec.json.decode(body, type=Entry)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise LedgerError(f"it is not an entry: {error}") from error


def salvage(lines: Iterable[bytes]) -> Iterator[Entry]:
    """Every charge that can still be made out in the lines of a damaged ledger, whatever their checksums say."""
    for line in lines:
        found = _SOME_JSON.search(line)
        if found is None:
            continue
        with suppress(LedgerError):
            entry = decode_entry(found[0])
            if entry.charge is not None:
                yield entry
