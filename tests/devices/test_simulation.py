"""Virtual fleets on real data: who is heard, what fits, and that nothing depends on where devices are computed."""

from collections.abc import Sequence
from dataclasses import replace
from math import inf
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import pytest

from devices.emulation.datasets import load_dataset
from devices.emulation.engines import InProcess, Material, Processes
from devices.emulation.in_memory_server import InMemoryServer
from devices.emulation.shares import draw_shares
from devices.emulation.simulation import SimulatedRound, Simulation, Stage
from devices.emulation.virtual_device import Answer, Order, Task, Workbench
from devices.emulation.virtual_fleet import FleetShape, LinkRange, VirtualFleet, draw_fleet
from devices.emulation.virtual_machine import VirtualMachine
from devices.errors import SimulationError
from edge_client.cost_model import fit_costs
from edge_client.link_estimate import ASSUMED_BYTES_PER_SECOND
from model_export.export import export_bundle
from model_export.model_source import build_model
from server.aggregation.masked_mean import WeightedMean
from server.bundle import Bundle, open_bundle
from server.config import RunConfig
from server.evaluation import Evaluator
from server.server_optimizers.fed_avg import FedAvg
from wire_protocol import messages
from wire_protocol.messages import Decline, Update
from wire_protocol.privacy import DevicePrivacy, Privacy, RecordPrivacy
from wire_protocol.sub_model import full_sub_model, sub_shapes
from wire_protocol.tensor_codec import decode

PI4, ZERO = "raspberry-pi-4", "raspberry-pi-zero-2w"
CONFIG = RunConfig(
    rounds=2,
    keep=1.0,
    local_steps=2,
    round_seconds=60.0,
    resync_every=2,
    selection="fisher",
    precision="float16",
    downlink="float16",
)


class Watched(InProcess):
    """Remembers what devices were asked and what they answered."""

    def __init__(self, bench: Workbench) -> None:
        super().__init__(bench)
        object.__setattr__(self, "seen", [])

    def run(self, order: Order, tasks: Sequence[Task]) -> list[Answer]:
        answers = super().run(order, tasks)
        self.seen.extend(zip([order] * len(tasks), tasks, answers, strict=True))
        return answers


class World:
    """One bundle, one data set, and simulations on them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.dataset = load_dataset("digits", None, 0)
        module = build_model("mlp", self.dataset.input_shape, self.dataset.classes, 0)
        self.manifest = export_bundle(module, self.dataset.input_shape, folder / "bundle", name="mlp")
        self.bundle: Bundle = open_bundle(folder / "bundle")
        self.material = Material(folder / "bundle", folder / "examples")
        self.material.write_examples(self.dataset.train)
        self.bench = self.material.open()
        self.evaluator = Evaluator(folder / "bundle" / "evaluate.onnx")

    def simulation(self, config: RunConfig, fleet: VirtualFleet, engine: Any, *, fitted: bool = True) -> Simulation:
        stage = Stage(
            config=config,
            fleet=fleet,
            shares=draw_shares(self.dataset.train.y, 20, 0.5, 0),
            manifest=self.manifest,
            bundle=self.bundle.id,
            evaluate=lambda parameters: self.evaluator.evaluate(parameters, self.dataset.test),
            scratch=Path(mkdtemp(dir=self.folder)),
            seed=3,
            fitted=fitted,
        )
        layout = self.bundle.layout
        return Simulation(
            stage, InMemoryServer(layout, WeightedMean(layout), FedAvg(), dict(self.bundle.weights)), engine
        )

    def run(
        self, config: RunConfig, fleet: VirtualFleet, *, fitted: bool = True
    ) -> tuple[Simulation, list[SimulatedRound], list[tuple[Order, Task, Answer]]]:
        engine = Watched(self.bench)
        simulation = self.simulation(config, fleet, engine, fitted=fitted)
        return simulation, list(simulation.rounds()), engine.seen


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("world"))


def shape(devices: int = 6, **changes: Any) -> FleetShape:
    return replace(FleetShape(devices, {PI4: 0.5, ZERO: 0.5}, LinkRange(1e6, 1e7)), **changes)


def fates(closed: SimulatedRound) -> list[str]:
    return [turn.fate for turn in closed.turns]


def test_the_next_model_is_the_mean_of_what_the_devices_sent(world: World) -> None:
    simulation, (closed,), seen = world.run(replace(CONFIG, rounds=1, precision="float32"), draw_fleet(shape(3), 0))
    assert fates(closed) == ["heard"] * 3
    layout = world.bundle.layout
    updates = [messages.decode(answer.body, Update) for _, _, answer in seen]
    shapes = sub_shapes(layout, full_sub_model(layout).widths)
    for name, before in world.bundle.weights.items():
        sent = [decode(update.values, shapes, update.codec)[name].astype(np.float64) for update in updates]
        weights = [update.examples for update in updates]
        expected = before + np.average(sent, axis=0, weights=weights).astype(np.float32)
        np.testing.assert_allclose(simulation.server.parameters[name], expected, rtol=1e-6, atol=1e-7)
    assert closed.record.bytes_up == sum(answer.bytes_up for _, _, answer in seen)
    assert closed.record.updates_accepted == 3


def test_time_is_what_link_and_machine_take(world: World) -> None:
    fleet = draw_fleet(shape(2, mix={ZERO: 1.0}), 0)
    _, (closed,), seen = world.run(replace(CONFIG, rounds=1), fleet, fitted=False)
    layout = world.bundle.layout
    model = fit_costs(layout, VirtualMachine(0.8e9, 16).calibration(layout).points)
    working = float(model.round_seconds(model.sizes.row(layout.group_sizes), CONFIG.local_steps)[0])
    ended = []
    for (_, task, answer), turn in zip(seen, closed.turns, strict=True):
        assert answer.fetched == pytest.approx(task.latency + answer.bytes_down / task.rate_down)
        assert answer.ready - answer.fetched == pytest.approx(task.work_factor * working)
        sending = turn.seconds - answer.ready - 2 * task.latency
        assert 0.5 < answer.bytes_up / sending / fleet.up[task.device] < 2.0
        busy, idle = 2.1, 0.6
        rest = turn.seconds - task.work_factor * working
        assert turn.joules == pytest.approx(busy * task.work_factor * working + idle * rest)
        ended.append(turn.seconds)
    assert closed.closed == pytest.approx(max(ended))


def test_between_resyncs_devices_get_the_slices_of_their_neurons(world: World) -> None:
    config = replace(CONFIG, rounds=3, keep=0.5, resync_every=2)
    _, rounds, seen = world.run(config, draw_fleet(shape(2), 0))
    assert [closed.record.resync for closed in rounds] == [True, False, True]
    kinds = [(order.plan.round, bool(task.slice_), task.bundle_bytes > 0) for order, task, _ in seen]
    assert kinds == [(1, False, True)] * 2 + [(2, True, False)] * 2 + [(3, False, False)] * 2
    widths = {task.device: task.selection.widths for order, task, _ in seen if order.plan.round == 2}
    chosen = {task.device: answer.sub_model.widths for order, task, answer in seen if order.plan.round == 1}
    assert widths == chosen


def test_devices_choose_widths_that_their_links_and_machines_can_afford(world: World) -> None:
    """A device learns in the first rounds how slow its link is, and chooses less at the next resync."""
    slow = draw_fleet(shape(8, link=LinkRange(0.4e6, 5e6)), 0)
    config = replace(CONFIG, rounds=4, resync_every=2, round_seconds=2.5, local_steps=10, precision="float32")
    config = replace(config, downlink="int8")
    _, rounds, _ = world.run(config, slow)
    kept = {turn.device: turn.kept for turn in rounds[-1].turns if turn.fate == "heard"}
    assert len(kept) >= 7
    assert len(set(kept.values())) > 2
    assert min(kept.values()) < 0.7
    _, full, _ = world.run(replace(config, selection="full"), slow, fitted=False)
    heard = [[fates(closed).count("heard") for closed in run] for run in (rounds, full)]
    assert sum(heard[0]) > sum(heard[1])
    assert {"upload", "work", "download"} & {fate for closed in full for fate in fates(closed)}


def test_a_device_that_can_afford_nothing_says_so_and_is_not_waited_for(world: World) -> None:
    fleet = draw_fleet(shape(4, mix={PI4: 1.0}), 0)
    config = replace(CONFIG, rounds=1, round_seconds=15.0, local_steps=1)
    _, _, seen = world.run(config, fleet)
    fleet.down[0] *= (seen[0][2].fetched - fleet.latency[0]) / (14.9 - fleet.latency[0])
    _, (closed,), seen = world.run(config, fleet)
    assert fates(closed) == ["declined", "heard", "heard", "heard"]
    declined = next(answer for _, task, answer in seen if task.device == 0)
    assert messages.decode(declined.body, Decline).cause == "cannot-afford"
    assert closed.record.updates_rejected == 1


def test_what_cannot_be_ready_in_time_is_not_trained_and_a_round_without_updates_is_prolonged(world: World) -> None:
    fleet = draw_fleet(shape(2, mix={ZERO: 1.0}), 0)
    config = replace(CONFIG, rounds=1, round_seconds=2.0, local_steps=60, selection="full")
    _, (closed,), seen = world.run(config, fleet, fitted=False)
    first, again = seen[:2], seen[2:4]
    assert all(answer.body is None and answer.ready < inf for _, _, answer in first)
    assert [task.began for _, task, _ in again] == [0.0, 0.0]
    assert [answer.ready for _, _, answer in again] == [answer.ready for _, _, answer in first]
    assert fates(closed).count("heard") >= 1
    assert closed.closed > 2.0


def test_who_comes_back_after_the_deadline_fits_its_work_to_the_later_one(world: World) -> None:
    fleet = draw_fleet(shape(1, availability=0.5, link=LinkRange(1e6, 1e6)), 0)
    fleet.period[0], fleet.offset[0] = 40.0, 0.499
    _, (closed,), seen = world.run(replace(CONFIG, rounds=1, round_seconds=15.0), fleet)
    assert [(order.plan.deadline, task.began) for order, task, _ in seen] == [(15.0, 0.0), (45.0, 30.0)]
    assert fates(closed) == ["offline", "heard"]


def test_only_those_drawn_take_part(world: World) -> None:
    fleet = draw_fleet(shape(30), 0)
    config = replace(CONFIG, rounds=3, participation=0.1, participation_seed=5)
    _, rounds, seen = world.run(config, fleet)
    for closed in rounds:
        plan = next(order.plan for order, _, _ in seen if order.plan.round == closed.record.round)
        drawn = [number for number, name in enumerate(fleet.names) if plan.draws(name)]
        assert [turn.device for turn in closed.turns] == drawn
        assert 0 < len(drawn) < 12
    assert all(fate == "heard" for closed in rounds for fate in fates(closed))


def test_devices_that_go_away_are_not_waited_for(world: World) -> None:
    fleet = draw_fleet(shape(12, mix={ZERO: 1.0}, availability=0.6, period=5.0), 0)
    config = replace(CONFIG, rounds=3, local_steps=20)
    _, rounds, _ = world.run(config, fleet, fitted=False)
    seen = [fate for closed in rounds for fate in fates(closed)]
    assert {"offline", "heard"} == set(seen)
    assert all(closed.online < 12 and closed.closed - closed.opened < 60 for closed in rounds)


def test_a_link_is_learned_from_receipts(world: World) -> None:
    fleet = draw_fleet(shape(2, link=LinkRange(5e6, 5e6)), 0)
    _, _, seen = world.run(CONFIG, fleet)
    first, later = ([task.link for order, task, _ in seen if order.plan.round == number] for number in (1, 2))
    assert all(link.bytes_per_second == ASSUMED_BYTES_PER_SECOND for link in first)
    assert all(2e5 < link.bytes_per_second < 1.2e6 for link in later)


def test_residuals_are_kept_for_what_was_counted(world: World) -> None:
    config = replace(CONFIG, rounds=2, precision="ternary", top_k=0.05)
    _, _, seen = world.run(config, draw_fleet(shape(2), 1))
    before = [task.residual for order, task, _ in seen if order.plan.round == 1]
    after = [(task.residual, answer) for order, task, answer in seen if order.plan.round == 2]
    assert all(not array.any() for residual in before for array in residual.values())
    assert all(any(array.any() for array in residual.values()) for residual, _ in after)


def test_a_run_in_which_nobody_can_train_ends_and_says_so(world: World) -> None:
    config = replace(CONFIG, learning_rate=1e30)
    with pytest.raises(SimulationError, match="10 rounds in turn came to nothing"):
        world.run(config, draw_fleet(shape(2), 0))


def test_a_run_whose_devices_go_away_before_they_are_heard_ends_and_says_so(world: World) -> None:
    fleet = draw_fleet(shape(2, availability=0.5, period=1.0), 0)
    with pytest.raises(SimulationError, match="round 1 was prolonged 100 times: devices go away"):
        world.run(replace(CONFIG, round_seconds=7.0), fleet)


@pytest.mark.parametrize("privacy", [DevicePrivacy(1.0, 0.1), RecordPrivacy(1.0, 0.5, 0.1)], ids=["device", "record"])
def test_noise_follows_from_the_seed(world: World, privacy: Privacy) -> None:
    config = replace(CONFIG, rounds=1, privacy=privacy, selection="full")
    one, again, silent = (
        [answer.body for _, _, answer in world.run(each, draw_fleet(shape(2), 0))[2]]
        for each in (config, config, replace(config, privacy=None))
    )
    assert one == again != silent


def test_a_run_that_draws_nobody_ends_and_says_so(world: World) -> None:
    with pytest.raises(SimulationError, match="participation 1e-12 is too low for 2 devices online"):
        world.run(replace(CONFIG, participation=1e-12), draw_fleet(shape(2), 0))


def test_processes_give_the_same_run_to_the_bit(world: World) -> None:
    fleet = draw_fleet(shape(5, availability=0.9), 0)
    config = replace(CONFIG, participation=0.7, top_k=0.2, precision="int8")
    alone, rounds, _ = world.run(config, fleet)
    with Processes(world.material, 2) as engine:
        together = world.simulation(config, fleet, engine)
        assert list(together.rounds()) == rounds
    for name, values in alone.server.parameters.items():
        np.testing.assert_array_equal(together.server.parameters[name], values)


def test_ray_gives_the_same_run_to_the_bit(world: World) -> None:
    pytest.importorskip("ray")
    from devices.emulation.ray_engine import RayEngine  # noqa: PLC0415

    fleet = draw_fleet(shape(5), 0)
    alone, rounds, _ = world.run(CONFIG, fleet)
    with RayEngine(world.material, 2) as engine:
        together = world.simulation(CONFIG, fleet, engine)
        assert list(together.rounds()) == rounds
    for name, values in alone.server.parameters.items():
        np.testing.assert_array_equal(together.server.parameters[name], values)
