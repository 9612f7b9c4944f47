"""One simulated fleet from data to trained model: the server's and the devices' cores on a virtual clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from devices.emulation.conclusion import Finished
from devices.emulation.datasets import Dataset
from devices.emulation.engines import Material, open_engine
from devices.emulation.in_memory_server import InMemoryServer
from devices.emulation.preparation import export_model, load_data
from devices.emulation.report import VirtualRound
from devices.emulation.results import Outcome, build_report, write_results
from devices.emulation.settings import SimulationSettings
from devices.emulation.shares import Dealt, Shares, draw_shares
from devices.emulation.simulation import SimulatedRound, Simulation, Stage
from devices.emulation.splits import dirichlet_split, natural_split
from devices.emulation.virtual_fleet import VirtualFleet, draw_fleet
from devices.emulation.virtual_report import FleetAccount
from server.aggregation.choice import aggregation_rule
from server.bundle import Bundle, open_bundle
from server.config import RunConfig
from server.evaluation import Evaluator
from server.initial_model import initial_model
from server.records import DeviceRecord, RoundRecord
from server.server_optimizers.choice import server_optimizer
from wire_protocol.bundle_manifest import EVALUATE

RUN = "simulation"

OnRound = Callable[[SimulatedRound, VirtualRound], None]


@dataclass(frozen=True)
class Prepared:
    """A run ready to start: `settings` with the real number of devices, the data, who holds what, and the fleet."""

    settings: SimulationSettings
    config: RunConfig
    dataset: Dataset
    shares: Shares
    fleet: VirtualFleet
    bundle: Bundle


def prepare(settings: SimulationSettings) -> Prepared:
    """Load and share the data, build and export the model, draw the fleet; raises `FisherfleetError`."""
    config = settings.run_config(RUN, round_seconds=settings.round_seconds, difference="off")
    dataset = load_data(settings)
    shares, devices = _shares(settings, dataset)
    settings = replace(settings, devices=devices)
    fleet = draw_fleet(settings.shape, settings.seed)
    folder, _ = export_model(settings, dataset)
    return Prepared(settings, config, dataset, shares, fleet, open_bundle(folder))


def simulate(prepared: Prepared, on_round: OnRound) -> Finished:
    """Train the fleet; Ctrl-C ends it with what was trained so far. Raises `FisherfleetError`."""
    settings, started = prepared.settings, time.monotonic()
    records: list[RoundRecord] = []
    account = FleetAccount(prepared.fleet)
    with TemporaryDirectory(prefix="fisherfleet-") as scratch:
        material = Material(prepared.bundle.folder, Path(scratch) / "examples")
        material.write_examples(prepared.dataset.train)
        with open_engine(settings.engine, material, settings.workers) as engine:
            simulation = Simulation(_stage(prepared, Path(scratch)), _server(prepared), engine)
            with suppress(KeyboardInterrupt):
                for closed in simulation.rounds():
                    records.append(closed.record)
                    on_round(closed, account.add(closed))
    outcome = Outcome(
        rounds=records,
        devices=_devices(prepared, simulation),
        group_sizes=prepared.bundle.layout.group_sizes,
        seconds=time.monotonic() - started,
        simulation=account.report(settings),
    )
    report = build_report(settings, outcome)
    paths = write_results(settings.out, report, prepared.bundle.folder, dict(simulation.server.parameters))
    return Finished(report, paths, interrupted=len(records) < settings.rounds)


def _shares(settings: SimulationSettings, dataset: Dataset) -> tuple[Shares, int]:
    """Who holds what, and how many devices there are."""
    if dataset.owners is not None:
        split = natural_split(dataset.owners)
        return Dealt(split), len(split)
    labels, devices = dataset.train.y, settings.devices
    if settings.examples is not None:
        return draw_shares(labels, settings.examples, settings.alpha, settings.seed), devices
    return Dealt(dirichlet_split(labels, devices, settings.alpha, settings.seed)), devices


def _stage(prepared: Prepared, scratch: Path) -> Stage:
    bundle, test = prepared.bundle, prepared.dataset.test
    graph = bundle.file(EVALUATE)
    assert graph is not None
    evaluator = Evaluator(graph)
    return Stage(
        config=prepared.config,
        fleet=prepared.fleet,
        shares=prepared.shares,
        manifest=bundle.manifest,
        bundle=bundle.id,
        evaluate=lambda parameters: evaluator.evaluate(parameters, test),
        scratch=scratch / "devices",
        seed=prepared.settings.seed,
        fitted=prepared.settings.fit,
    )


def _server(prepared: Prepared) -> InMemoryServer:
    layout, config = prepared.bundle.layout, prepared.config
    rule, optimizer = aggregation_rule(config.aggregation, layout), server_optimizer(config.server_optimizer)
    initial = initial_model(layout, prepared.bundle.weights, config.initial_scale)
    return InMemoryServer(layout, rule, optimizer, initial, config.clipping, config.outliers)


def _devices(prepared: Prepared, simulation: Simulation) -> list[DeviceRecord]:
    """Those that were heard, as the server knows them."""
    return [
        DeviceRecord(
            id=prepared.fleet.names[device],
            online=True,
            examples=len(prepared.shares.of(device)),
            runtime="portable",
            client="virtual",
            last_seen=0.0,
            kept=selection.sub_model.widths,
        )
        for device, selection in sorted(simulation.selections.items())
    ]
