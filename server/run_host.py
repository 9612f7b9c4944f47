"""One run at hand: its bundle, models, updates under way, what is counted, and its rounds, wired together."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry

from server.answers import Answers
from server.bundle import Bundle
from server.clocks import Clocks
from server.config import RunConfig
from server.counting import Counting
from server.downlink import Downlink
from server.errors import ServerError
from server.evaluation import Evaluator
from server.intake import Desk
from server.metrics import Metrics
from server.model_files import ModelFiles
from server.opening import open_update
from server.operator_keys import Operator
from server.partial_files import PartialFiles
from server.presence import Presence
from server.records import RoundRecord
from server.registry import Registry
from server.rounds import Rounds
from server.run_history import resume
from server.shelf import Offered
from server.spool import Spool
from server.storage import Store
from server.traffic import Traffic
from server.uplink import DEFAULT_BUDGET_BYTES, Complete, Uplink, max_update_size
from server.workplace import Workplace
from wire_protocol import bundle_manifest
from wire_protocol.examples import Examples, fit_examples
from wire_protocol.topics import Part


@dataclass(frozen=True)
class Premises:
    """What all runs of a service share. `on_round` is told of every round that closed, and of which run."""

    state: Path
    store: Store
    operator: Operator
    registry: Registry
    presence: Presence
    downlink: Downlink
    traffic: Traffic
    clocks: Clocks
    evaluation_threads: int
    on_round: Callable[[str, RoundRecord], None]
    metrics: Metrics = field(default_factory=lambda: Metrics(CollectorRegistry()))


class RunHost:
    """A run that is in the database; `test` are held-out examples for its models, None for no evaluation. `error` is
    why it failed, None as long as it has not.

    Raises `BundleError`, `DamagedError`, `StorageError`, and `ExamplesError` where `test` does not fit the bundle.
    """

    def __init__(self, premises: Premises, config: RunConfig, bundle: Bundle, test: Examples | None) -> None:
        self.run = config.run
        self.error: Exception | None = None
        self._at = premises
        held_out = None if test is None else open_evaluator(bundle, test, premises.evaluation_threads)
        models = ModelFiles(premises.state, config.run, offered=_models_offered(config))
        self.uplink = Uplink(
            budget_bytes=DEFAULT_BUDGET_BYTES,
            max_payload=max_update_size(bundle.layout, config.codec),
            partial=PartialFiles(premises.state / "partial", config.run),
            clock=premises.clocks.steady,
        )
        self.offered = Offered(bundle, models)
        self.rounds = self._open_rounds(config, held_out)
        counting = Counting(
            lambda complete: open_update(complete, premises.operator, premises.registry),
            bundle.layout,
            premises.store.updates,
        )
        self.answers = Answers(self.rounds, counting, premises.store, premises.registry, premises.clocks)
        self.desk = Desk(self.uplink, self.answers)

    def _open_rounds(self, config: RunConfig, held_out: tuple[Evaluator, Examples] | None) -> Rounds:
        at, (bundle, models) = self._at, self.offered
        workplace = Workplace(
            config=config,
            bundle=bundle,
            store=at.store,
            models=models,
            spool=Spool(at.state, config.run),
            registry=at.registry,
            downlink=at.downlink,
            traffic=at.traffic,
            held_out=held_out,
            clocks=at.clocks,
            uplink=self.uplink,
            metrics=at.metrics,
        )
        standing = resume(at.store, models, bundle, config, at.clocks.wall(), at.presence.online)
        return Rounds(workplace, standing, partial(at.on_round, config.run))

    async def take_updates(self, completes: deque[Complete]) -> None:
        """Judge and count what came whole, and answer it."""
        parts, loop = [complete.part for complete in completes], asyncio.get_running_loop()

        def let_go(part: Part) -> None:
            loop.call_soon_threadsafe(self._let_go, part)

        try:
            for device, receipt in await self.answers.count(completes, let_go):
                self._at.downlink.receipt(device, receipt)
        finally:
            for part in parts:
                self.uplink.release(part)

    def ask_for_more(self) -> None:
        """Tell devices that may send now; several times a second, and after updates were released."""
        for device, need in self.uplink.tick():
            self._at.downlink.need(device, need)

    def _let_go(self, part: Part) -> None:
        self.uplink.let_go(part)
        self.ask_for_more()


def open_evaluator(bundle: Bundle, test: Examples, threads: int) -> tuple[Evaluator, Examples]:
    """What evaluates a model of the bundle; raises `ExamplesError` and `ServerError`."""
    fitting = fit_examples(test, bundle.manifest, "the test examples")
    graph = bundle.file(bundle_manifest.EVALUATE)
    if graph is None:
        raise ServerError(f"bundle {bundle.folder} has no {bundle_manifest.EVALUATE} to test a model with")
    return Evaluator(graph, threads), fitting


def _models_offered(config: RunConfig) -> int:
    """The models of all rounds whose updates count: devices may be fetching any of them."""
    return 1 + (config.buffer.most_stale if config.buffer is not None else 0)
