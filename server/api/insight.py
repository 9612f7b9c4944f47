"""What a run's page shows beside its rounds: the open round, who is late, the privacy spent, the neurons kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from statistics import median

from fastapi import APIRouter

from server.api.guarded_route import guarded_router
from server.api.names import RunName
from server.api.problems import problems
from server.api.sources import Sources
from server.errors import UnknownRunError
from server.kept_neurons import GroupShares, kept_shares
from server.participation_rows import RECENT_ROUNDS, OpenRound, Punctuality, Result
from server.privacy.spending import Spending, spending
from server.records import RunRecord
from server.run_codec import read_run
from server.storage import Store

MOST_NAMED = 50
"""Devices that an answer names; the rest are counted."""
_RECENT = 10
_REMEMBERED = 16
"""Runs, or numbers of rounds."""


@dataclass(frozen=True)
class Progress:
    """`closed` of `planned` rounds. `seconds_a_round` is the median of the last ten closed ones, None before the first;
    `seconds_left` is what the rest takes at that pace. `open` names at most 50 devices that are missing, of
    `missing` in all.
    """

    planned: int
    closed: int
    seconds_a_round: float | None
    seconds_left: float | None
    missing: int
    open: OpenRound | None


@dataclass(frozen=True)
class Stragglers:
    """Of `devices` expected in the last `rounds` closed rounds, the 50 that missed most."""

    rounds: int
    devices: int
    missed_most: tuple[Punctuality, ...]


@dataclass(frozen=True)
class Neurons:
    """For each neuron group the share of `devices` devices that keep a neuron; empty before the first update."""

    devices: int
    groups: tuple[GroupShares, ...]


class _Closed:
    """What moves on as rounds close: computed once for each number of rounds closed, as many people may look."""

    def __init__(self, sources: Sources) -> None:
        self._store = sources.store
        self._files = sources.files
        self.stragglers = lru_cache(_REMEMBERED)(self._stragglers)
        self.privacy = lru_cache(_REMEMBERED)(self._privacy)
        self.neurons = lru_cache(_REMEMBERED)(self._neurons)

    def _stragglers(self, run: str, closed: int) -> Stragglers:
        found = self._store.participation.punctuality(run)
        late = tuple(one for one in found if one.missed or one.late)
        return Stragglers(min(closed, RECENT_ROUNDS), len(found), late[:MOST_NAMED])

    def _privacy(self, run: str, closed: int) -> Spending:
        return spending(read_run(run, _existing(self._store, run).config), closed)

    def _neurons(self, run: str, closed: int) -> Neurons:
        del closed
        layout = self._files.manifest(_existing(self._store, run).bundle).layout
        selections = [bitmaps for _, bitmaps in self._store.updates.selections(run, since=0).values()]
        return Neurons(len(selections), kept_shares(layout.group_sizes, selections))


def router(sources: Sources) -> APIRouter:
    """`GET /results`, and `/progress`, `/stragglers`, `/privacy` and `/neurons` of `/runs/{run}`."""
    routes = guarded_router(sources, "insight")
    _add_standing(routes, sources.store)
    _add_closed(routes, sources.store, _Closed(sources))
    return routes


def _add_standing(routes: APIRouter, store: Store) -> None:
    @routes.get("/results")
    def list_results() -> tuple[Result, ...]:
        """Show what the last closed round of every run reached."""
        return store.participation.results()

    @routes.get("/runs/{run}/progress", responses=problems(404))
    def get_progress(run: RunName) -> Progress:
        """Show how far a run is, who has yet to answer, and how long the rest will take."""
        record, rows = _existing(store, run), store.participation
        return _progress(record, rows.recent_seconds(run, _RECENT), rows.open_round(run))


def _add_closed(routes: APIRouter, store: Store, closed: _Closed) -> None:
    @routes.get("/runs/{run}/stragglers", responses=problems(404))
    def get_stragglers(run: RunName) -> Stragglers:
        """Show who was expected and not heard most often in the last closed rounds, 20 at most."""
        return closed.stragglers(run, _existing(store, run).rounds_closed)

    @routes.get("/runs/{run}/privacy", responses=problems(404))
    def get_privacy(run: RunName) -> Spending:
        """Show what a run promises about privacy in words, and epsilon by round."""
        return closed.privacy(run, _existing(store, run).rounds_closed)

    @routes.get("/runs/{run}/neurons", responses=problems(404))
    def get_neurons(run: RunName) -> Neurons:
        """Show which neurons the fleet kept when the last round closed, by each device's newest counted update."""
        return closed.neurons(run, _existing(store, run).rounds_closed)


def _existing(store: Store, run: str) -> RunRecord:
    record = store.run(run)
    if record is None:
        raise UnknownRunError(f"there is no run {run!r}; GET /api/v1/runs lists those there are")
    return record


def _progress(record: RunRecord, recent: tuple[float, ...], open_round: OpenRound | None) -> Progress:
    planned, pace = int(record.config["rounds"]), median(recent) if recent else None
    missing = len(open_round.missing) if open_round else 0
    return Progress(
        planned=planned,
        closed=record.rounds_closed,
        seconds_a_round=pace,
        seconds_left=None if pace is None else pace * max(0, planned - record.rounds_closed),
        missing=missing,
        open=open_round and replace(open_round, missing=open_round.missing[:MOST_NAMED]),
    )
