import numpy as np
import pytest

from devices.emulation.virtual_machine import VirtualMachine, machine_of
from devices.profiles.profile import load_profiles
from edge_client.cost_model import LayoutSizes, fit_costs
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter

LAYOUT = Layout(
    (
        Parameter("a.weight", (64, 9), (CutAxis(0, "a", produces=True),), 100),
        Parameter("a.bias", (64,), (CutAxis(0, "a", produces=True),), 100),
        Parameter("b.weight", (128, 64), (CutAxis(0, "b", produces=True), CutAxis(1, "a")), 1),
        Parameter("c.weight", (10, 128), (CutAxis(1, "b"),), 1),
    ),
    (NeuronGroup("a", 64), NeuronGroup("b", 128)),
)


def seconds(machine: VirtualMachine, widths: dict[str, int], steps: int) -> float:
    model = fit_costs(LAYOUT, machine.calibration(LAYOUT).points)
    return float(model.round_seconds(model.sizes.row(widths), steps)[0])


@pytest.mark.parametrize("widths", [{"a": 8, "b": 8}, {"a": 40, "b": 17}, {"a": 64, "b": 128}])
def test_a_device_predicts_what_the_machine_then_takes(widths: dict[str, int]) -> None:
    sizes = LayoutSizes(LAYOUT)
    row = sizes.row(widths)
    work = float(sizes.multiply_accumulates(row)[0] + 120 * sizes.activations(row)[0])
    step, once = 3 * 32 * work + 4e7, 8e7 + 400 * float(sizes.elements(row)[0])
    assert seconds(VirtualMachine(1e9, 32), widths, 7) == pytest.approx((7 * step + once) / 1e9, rel=1e-6)


def test_twice_the_speed_takes_half_the_time_and_the_same_memory() -> None:
    slow, fast = (VirtualMachine(speed, 16).calibration(LAYOUT) for speed in (1e9, 2e9))
    assert slow.scoring_seconds == pytest.approx(2 * fast.scoring_seconds)
    assert slow.scoring_mb == fast.scoring_mb > 80
    for one, other in zip(slow.points, fast.points, strict=True):
        assert one.step_seconds == pytest.approx(2 * other.step_seconds)
        assert one.peak_mb == other.peak_mb


def test_kinds_of_devices_differ_by_their_profiles() -> None:
    speeds = [machine_of(profile, 8).speed for profile in load_profiles().values()]
    assert np.all(np.diff(speeds) > 0)
