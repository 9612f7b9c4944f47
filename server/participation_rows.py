"""Who was expected and who answered: what rows of rounds and updates say of devices, for people. Reads only."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from sqlalchemy import ColumnElement, Connection, case, func, select

from server import tables
from server.database import Database
from wire_protocol import messages
from wire_protocol.messages import RoundPlan

RECENT_ROUNDS = 20
_rounds, _updates, _refusals = tables.rounds.c, tables.updates.c, tables.refusals.c


@dataclass(frozen=True)
class OpenRound:
    """The round that is open: `expected` were online and drawn when it opened, `missing` of them have not answered.

    `opened` and `deadline` are in seconds since the Unix epoch. `counted` and `refused` are devices.
    """

    round: int
    resync: bool
    opened: float
    deadline: float
    expected: int
    counted: int
    refused: int
    missing: tuple[str, ...]


@dataclass(frozen=True)
class Punctuality:
    """Of the last closed rounds: how many expected the device, and how often it was not heard in time.

    `late` counts updates of it that were counted in a later round (buffered runs).
    """

    device: str
    expected: int
    missed: int
    late: int


@dataclass(frozen=True)
class Result:
    """What the last closed round of a run reached, None where it was not measured."""

    run: str
    round: int
    accuracy: float | None
    loss: float | None


class ParticipationRows:
    """The rows of all runs."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def open_round(self, run: str) -> OpenRound | None:
        """Who has answered in the open round; None where none is open."""
        query = select(tables.rounds).where(_rounds.run == run, _rounds.status == tables.OPEN)
        with self._database.transaction() as connection:
            row = connection.execute(query.limit(1)).mappings().one_or_none()
            if row is None:
                return None
            counted = set(connection.scalars(select(_updates.device).where(_made_in(_updates, run, row["round"]))))
            refused = set(connection.scalars(select(_refusals.device).where(_made_in(_refusals, run, row["round"]))))
        expected = frozenset(row["expected"])
        return OpenRound(
            round=row["round"],
            resync=row["resync"],
            opened=row["opened"],
            deadline=messages.decode(row["plan"], RoundPlan).deadline,
            expected=len(expected),
            counted=len(counted),
            refused=len(refused - counted),
            missing=tuple(sorted(expected - counted - refused)),
        )

    def results(self) -> tuple[Result, ...]:
        """The last closed round of every run that has one."""
        closed = tables.rounds.c.status == tables.CLOSED
        last = (
            select(_rounds.run, func.max(_rounds.round).label("round")).where(closed).group_by(_rounds.run).subquery()
        )
        found = (_rounds.run == last.c.run) & (_rounds.round == last.c.round)
        query = select(_rounds.run, _rounds.round, _rounds.accuracy, _rounds.loss).join(last, found)
        with self._database.transaction() as connection:
            return tuple(Result(**row) for row in connection.execute(query).mappings())

    def recent_seconds(self, run: str, last: int) -> tuple[float, ...]:
        """How long the `last` closed rounds took, the newest first."""
        closed = select(_rounds.seconds).where(_rounds.run == run, _rounds.status == tables.CLOSED)
        with self._database.transaction() as connection:
            return tuple(connection.scalars(closed.order_by(_rounds.round.desc()).limit(last)))

    def punctuality(self, run: str, last: int = RECENT_ROUNDS) -> tuple[Punctuality, ...]:
        """Every device expected in the `last` closed rounds, those that missed most first."""
        closed = select(_rounds.round, _rounds.expected).where(_rounds.run == run, _rounds.status == tables.CLOSED)
        with self._database.transaction() as connection:
            rows = connection.execute(closed.order_by(_rounds.round.desc()).limit(last)).all()
            heard = _heard(connection, run, min((number for number, _ in rows), default=0))
        expected = Counter(device for _, devices in rows for device in devices)
        found = (_punctuality(device, times, *heard.get(device, (0, 0))) for device, times in expected.items())
        return tuple(sorted(found, key=lambda one: (-one.missed, -one.late, one.device)))


def _made_in(columns: object, run: str, number: int) -> ColumnElement[bool]:
    return (columns.run == run) & (columns.round == number)  # type: ignore[attr-defined, no-any-return]


def _heard(connection: Connection, run: str, since: int) -> dict[str, tuple[int, int]]:
    """Updates of rounds from `since` on, by device: all, and those counted in a later round."""
    late = func.sum(case((_updates.counted_in > _updates.round, 1), else_=0))
    query = select(_updates.device, func.count(), late).where(_updates.run == run, _updates.round >= since)
    rows = connection.execute(query.group_by(_updates.device))
    return {device: (counted, int(later)) for device, counted, later in rows}


def _punctuality(device: str, expected: int, counted: int, late: int) -> Punctuality:
    return Punctuality(device, expected, max(0, expected - counted + late), late)
