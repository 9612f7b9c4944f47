"""Runs as they are controlled: every order is durable before it is answered, and holds after a restart at any point."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from server.active_runs import ActiveRuns
from server.bundle import Bundle
from server.config import RunConfig
from server.coordinator import Event, Pause, Resume, ResyncNow, Stop
from server.errors import ConflictError, StorageError, UnknownRunError
from server.model_files import ModelFiles
from server.receipts import refusal
from server.records import RunRecord
from server.run_codec import read_run, run_values
from server.run_files import RunFiles
from server.run_host import Premises, RunHost, open_evaluator
from server.run_status import ACTIVE, FINAL, Order, status_after
from wire_protocol.errors import FisherfleetError, InvalidValueError
from wire_protocol.examples import Examples, ExamplesError, load_examples
from wire_protocol.messages import Receipt
from wire_protocol.topics import Part

logger = logging.getLogger(__name__)


class Runs:
    """The runs of a state folder, as `Control` has them; those that are running or paused are at hand in `active`."""

    def __init__(self, premises: Premises, active: ActiveRuns) -> None:
        self._at = premises
        self._active = active
        self._files = RunFiles(premises.state)
        self._one_at_a_time = asyncio.Lock()

    def open_all(self) -> None:
        """Take all runs at hand that are running or paused; one that cannot be opened fails. Raises `StorageError`."""
        for record in self._at.store.runs():
            if record.status not in ACTIVE:
                self._clear_away(record)
            else:
                self._open_or_fail(record)

    def _open_or_fail(self, record: RunRecord) -> None:
        try:
            self._active.add(self._open(record))
        except StorageError:
            raise
        except FisherfleetError as error:
            logger.error("run %s has failed: %s", record.run, error)
            self._at.store.events.add("run-status", f"failed: {error}", run=record.run)
            self._at.store.orders.move(record.run, ACTIVE, "failed", str(error))

    def _clear_away(self, record: RunRecord) -> None:
        """The plan of a run that ended may still be retained: with its last round open, or by a service killed just as
        the run ended.
        """
        opening, last = self._at.store.opening(record.run), self._at.store.last_plan(record.run)
        if opening is not None or (last is not None and last.deadline > self._at.clocks.wall()):
            self._active.leave(record.run)
        if opening is not None and record.status in FINAL:
            self._at.store.abandon_round(record.run, opening.plan.round)

    def adopt(self, folder: Path, config: RunConfig, test: Examples | None, *, goes_on: bool = False) -> RunHost:
        """Make the run or go on with it, by this configuration, and start it unless it is paused; for a command line.

        One that is finished goes on where `config` has more rounds. With `goes_on` it has the name of the newest run of
        this bundle that is not finished, where there is one. Raises `ConflictError` where it was stopped, and what
        `RunHost` raises.
        """
        bundle = self._files.add_bundle(folder)
        if goes_on:
            config = replace(config, run=self._unfinished(bundle, config.rounds) or config.run)
        if self._at.store.orders.status(config.run) == "stopped":
            raise ConflictError(f"run {config.run} was stopped: choose another name")
        self._make(config, bundle, test)
        host = RunHost(self._at, config, bundle, self._files.test(config.run))
        self._at.store.orders.move(config.run, ("created", "failed", "finished"), "running")
        self._active.add(host)
        return host

    def _unfinished(self, bundle: Bundle, rounds: int) -> str | None:
        for record in self._at.store.runs():
            begun = record.status not in ("created", "stopped")
            if record.bundle == bundle.id and begun and record.rounds_closed < rounds:
                return record.run
        return None

    async def create(self, run: str, bundle: str, config: Mapping[str, Any], test: Path | None = None) -> RunRecord:
        """See `Control`."""
        wanted = await asyncio.to_thread(read_run, run, config)
        return await self._make_new(wanted, bundle, test)

    async def hold_out(self, run: str, test: Path) -> RunRecord:
        """See `Control`."""
        async with self._one_at_a_time:
            return await asyncio.to_thread(self._hold_out, run, test)

    async def start(self, run: str) -> RunRecord:
        """See `Control`."""
        return await self._order("start", run)

    async def pause(self, run: str) -> RunRecord:
        """See `Control`."""
        return await self._order("pause", run, Pause())

    async def resume(self, run: str) -> RunRecord:
        """See `Control`."""
        return await self._order("resume", run, Resume())

    async def stop(self, run: str) -> RunRecord:
        """See `Control`."""
        return await self._order("stop", run, Stop())

    async def resync(self, run: str) -> RunRecord:
        """See `Control`."""
        async with self._one_at_a_time:
            record = await asyncio.to_thread(self._record, run)
            status_after("resync", run, record.status)
            await asyncio.to_thread(self._at.store.orders.order_resync, run)
            self._tell(run, ResyncNow())
            self._at.store.events.add("run-status", "the next round is a resync", run=run)
        return record

    async def clone(self, run: str, new: str) -> RunRecord:
        """See `Control`."""
        record = await asyncio.to_thread(self._record, run)
        wanted = await asyncio.to_thread(read_run, new, {**record.config, "run": new})
        test = self._files.test_path(run)
        return await self._make_new(wanted, record.bundle, test if test.exists() else None)

    async def roll_back(self, run: str, version: int) -> RunRecord:
        """See `Control`."""
        async with self._one_at_a_time:
            record = await asyncio.to_thread(self._record, run)
            status_after("roll back", run, record.status)
            await asyncio.to_thread(self._keep_for_roll_back, run, version)
            host = self._active.get(run)
            if host is not None:
                host.rounds.order_roll_back(version)
            self._at.store.events.add("run-status", f"the next round starts from version {version}", run=run)
        return record

    async def add_bundle(self, folder: Path) -> str:
        """See `Control`."""
        return (await asyncio.to_thread(self._files.add_bundle, folder)).id

    def answer_past(self, part: Part, sha256: bytes) -> Receipt | None:
        """The answer to an update of a run that is over; None of any other run that is not at hand."""
        status = self._at.store.orders.status(part.run)
        if status not in FINAL:
            return None
        if self._at.store.updates.counted_hash(part.run, part.round, part.device) == sha256:
            return Receipt(run=part.run, round=part.round, sha256=sha256, accepted=True)
        return refusal(part, sha256, f"run {part.run} is {status}")

    async def _order(self, order: Order, run: str, event: Event | None = None) -> RunRecord:
        async with self._one_at_a_time:
            record = await asyncio.to_thread(self._record, run)
            after = status_after(order, run, record.status)
            host = None
            if after in ACTIVE and self._active.get(run) is None:
                host = await asyncio.to_thread(self._open, record)
                await host.rounds.prepare()
            if not await asyncio.to_thread(self._at.store.orders.move, run, (record.status,), after):
                raise ConflictError(f"run {run} is {record.status} no more")
            if host is not None:
                self._active.join(host)
            if event is not None:
                self._tell(run, event)
            logger.info("run %s is %s", run, after)
            self._at.store.events.add("run-status", after, run=run)
            record = await asyncio.to_thread(self._record, run)
            if self._active.get(run) is None:
                self._clear_away(record)
            return record

    def _keep_for_roll_back(self, run: str, version: int) -> None:
        ModelFiles(self._at.state, run).save_roll_back(self._at.store.archive.open(run, version))
        self._at.store.orders.order_roll_back(run, version)

    def _tell(self, run: str, event: Event) -> None:
        host = self._active.get(run)
        if host is not None:
            host.rounds.observe(event)

    async def _make_new(self, config: RunConfig, bundle: str, test: Path | None) -> RunRecord:
        def make() -> RunRecord:
            if self._at.store.run(config.run) is not None:
                raise ConflictError(f"there is a run {config.run} already: choose another name")
            with _naming_test():
                examples = None if test is None else load_examples(test, labelled=False)
                self._make(config, self._files.bundle(bundle), examples)
            self._at.store.events.add("run-created", f"of bundle {bundle[:8]}", run=config.run)
            return self._record(config.run)

        async with self._one_at_a_time:
            return await asyncio.to_thread(make)

    def _make(self, config: RunConfig, bundle: Bundle, test: Examples | None) -> None:
        if test is not None:
            self._save_test(config.run, bundle, test)
        self._at.store.begin_run(RunRecord(config.run, bundle.id, self._at.clocks.wall(), run_values(config)))

    def _hold_out(self, run: str, test: Path) -> RunRecord:
        record = self._record(run)
        status_after("hold out", run, record.status)
        with _naming_test():
            self._save_test(run, self._files.bundle(record.bundle), load_examples(test, labelled=False))
        return record

    def _save_test(self, run: str, bundle: Bundle, test: Examples) -> None:
        open_evaluator(bundle, test, self._at.evaluation_threads)
        self._files.save_test(run, test)

    def _open(self, record: RunRecord) -> RunHost:
        config, bundle = read_run(record.run, record.config), self._files.bundle(record.bundle)
        return RunHost(self._at, config, bundle, self._files.test(record.run))

    def _record(self, run: str) -> RunRecord:
        record = self._at.store.run(run)
        if record is None:
            raise UnknownRunError(f"there is no run {run!r}")
        return record


@contextmanager
def _naming_test() -> Iterator[None]:
    try:
        yield
    except ExamplesError as error:
        raise InvalidValueError(f"test: {error}", "test") from error
