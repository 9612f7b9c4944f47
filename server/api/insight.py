"""What a run's page shows beside its rounds: the open round, who is late, the privacy spent, the neurons kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import median

from fastapi import APIRouter, HTTPException

from server.api.guarded_route import guarded_router
from server.api.names import RunName
from server.api.problems import problems
from server.api.sources import Sources
from server.kept_neurons import GroupShares, kept_shares
from server.participation_rows import RECENT_ROUNDS, OpenRound, Punctuality, Result
from server.privacy.spending import Spending, spending
from server.records import RunRecord
from server.run_codec import read_run

MOST_NAMED = 50
"""Devices that an answer names; the rest are counted."""
_RECENT = 10


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


def router(sources: Sources) -> APIRouter:
    """`GET /results`, and `/progress`, `/stragglers`, `/privacy` and `/neurons` of `/runs/{run}`."""
    routes = guarded_router(sources, "insight")
    store = sources.store

    def existing(run: RunName) -> RunRecord:
        record = store.run(run)
        if record is None:
            raise HTTPException(404, f"there is no run {run!r}; GET /api/v1/runs lists those there are")
        return record

    @routes.get("/results")
    def results() -> tuple[Result, ...]:
        """Show what the last closed round of every run reached."""
        return store.participation.results()

    @routes.get("/runs/{run}/progress", responses=problems(404))
    def progress(run: RunName) -> Progress:
        """Show how far a run is, who has yet to answer, and how long the rest will take."""
        return _progress(
            existing(run), store.participation.recent_seconds(run, _RECENT), store.participation.open_round(run)
        )

    @routes.get("/runs/{run}/stragglers", responses=problems(404))
    def stragglers(run: RunName) -> Stragglers:
        """Show who was expected and not heard most often in the last closed rounds, 20 at most."""
        record = existing(run)
        found = store.participation.punctuality(run)
        late = tuple(one for one in found if one.missed or one.late)
        return Stragglers(min(record.rounds_closed, RECENT_ROUNDS), len(found), late[:MOST_NAMED])

    @routes.get("/runs/{run}/privacy", responses=problems(404))
    def privacy(run: RunName) -> Spending:
        """Show what a run promises about privacy in words, and epsilon by round."""
        record = existing(run)
        return spending(read_run(run, record.config), record.rounds_closed)

    @routes.get("/runs/{run}/neurons", responses=problems(404))
    def neurons(run: RunName) -> Neurons:
        """Show which neurons the fleet keeps, by each device's newest counted update."""
        layout = sources.files.manifest(existing(run).bundle).layout
        selections = [bitmaps for _, bitmaps in store.updates.selections(run, since=0).values()]
        return Neurons(len(selections), kept_shares(layout.group_sizes, selections))

    return routes


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
