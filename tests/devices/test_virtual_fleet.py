from math import inf

import numpy as np
import pytest

from devices.emulation.virtual_fleet import FleetShape, LinkRange, draw_fleet
from devices.profiles.profile import load_profiles
from wire_protocol.errors import InvalidValueError

MIX = {"raspberry-pi-4": 3.0, "raspberry-pi-zero-2w": 1.0}


def test_a_mix_is_met_to_the_device_and_links_are_log_uniform() -> None:
    fleet = draw_fleet(FleetShape(1000, MIX, LinkRange(1e5, 1e7)), 0)
    counts = {profile.id: int((fleet.kinds == kind).sum()) for kind, profile in enumerate(fleet.profiles)}
    assert counts == {"raspberry-pi-4": 750, "raspberry-pi-zero-2w": 250}
    assert fleet.profile(0) in fleet.profiles
    assert len(set(fleet.kinds[:20].tolist())) == 2
    bits = 8 * fleet.up
    assert np.array_equal(fleet.up, fleet.down)
    assert 1e5 <= bits.min() < 1.1e5
    assert 9e6 < bits.max() <= 1e7
    assert np.median(bits) == pytest.approx(1e6, rel=0.3)


def test_without_a_range_each_kind_has_its_own_link() -> None:
    fleet = draw_fleet(FleetShape(8, MIX), 0)
    for device in range(8):
        link = load_profiles()[fleet.profile(device).id].link
        assert (8 * fleet.up[device], 8 * fleet.down[device]) == (link.up_bits, link.down_bits)
        assert fleet.latency[device] == link.latency_seconds


def test_equal_seeds_give_equal_fleets() -> None:
    one, same, other = (draw_fleet(FleetShape(50, MIX, LinkRange(1e5, 1e7)), seed) for seed in (1, 1, 2))
    assert np.array_equal(one.up, same.up)
    assert np.array_equal(one.kinds, same.kinds)
    assert not np.array_equal(one.up, other.up)


def test_devices_come_and_go_and_are_there_for_their_part_of_the_time() -> None:
    fleet = draw_fleet(FleetShape(300, MIX, availability=0.7, period=100.0), 0)
    there = np.array([fleet.online(now) for now in np.linspace(0, 1000, 500)])
    assert there.mean() == pytest.approx(0.7, abs=0.02)
    assert there.any(axis=0).all()
    for device in np.flatnonzero(fleet.online(42.0))[:20].tolist():
        leaves = fleet.leaves(device, 42.0)
        assert fleet.online(leaves - 1e-6)[device]
        assert not fleet.online(leaves + 1e-6)[device]


def test_a_device_that_stays_never_leaves() -> None:
    fleet = draw_fleet(FleetShape(3, MIX), 0)
    assert fleet.online(1e9).all()
    assert fleet.leaves(1, 5.0) == inf


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"devices": 0}, "devices must be at least 1, got 0"),
        ({"mix": {}}, "mix must be at least one profile"),
        ({"mix": {"toaster": 1.0}}, "mix must be of the profiles raspberry-pi-zero-2w, .*, got 'toaster'"),
        ({"mix": {"raspberry-pi-4": 0.0}}, "share of raspberry-pi-4 must be above 0"),
        ({"availability": 0.0}, "availability must be above 0 and at most 1"),
        ({"period": inf}, "period must be above 0 and finite"),
    ],
)
def test_what_no_fleet_can_be_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(InvalidValueError, match=message):
        FleetShape(**{"devices": 5, "mix": MIX, **changes})


def test_a_link_range_has_its_lower_end_first() -> None:
    with pytest.raises(InvalidValueError, match="link must be two rates"):
        LinkRange(2e6, 1e6)
