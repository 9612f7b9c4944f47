import numpy as np
import pytest

from devices.emulation.shares import draw_shares
from wire_protocol.errors import InvalidValueError

LABELS = np.random.default_rng(0).integers(0, 10, 500)


def test_a_draw_follows_from_seed_and_device_alone() -> None:
    one, again, other = (draw_shares(LABELS, 30, 0.3, seed) for seed in (1, 1, 2))
    assert np.array_equal(one.of(9_999), again.of(9_999))
    assert not np.array_equal(one.of(9_999), other.of(9_999))
    assert not np.array_equal(one.of(9_999), one.of(0))


@pytest.mark.parametrize("alpha", [0.001, 0.3, 1e6])
@pytest.mark.parametrize("count", [1, 60, 500])
def test_every_device_has_as_many_different_examples_as_asked_for(alpha: float, count: int) -> None:
    shares = draw_shares(LABELS, count, alpha, 0)
    for device in range(30):
        indices = shares.of(device)
        assert len(np.unique(indices)) == len(indices) == count
        assert np.array_equal(indices, np.sort(indices))


def test_a_small_alpha_gives_few_classes() -> None:
    classes = {
        alpha: np.mean([len(np.unique(LABELS[draw_shares(LABELS, 30, alpha, 0).of(n)])) for n in range(50)])
        for alpha in (0.05, 100.0)
    }
    assert classes[0.05] < 3
    assert classes[100.0] > 9


@pytest.mark.parametrize(("count", "alpha", "name"), [(0, 1.0, "examples"), (501, 1.0, "examples"), (5, 0.0, "alpha")])
def test_impossible_draws_are_refused(count: int, alpha: float, name: str) -> None:
    with pytest.raises(InvalidValueError, match=f"^{name} must be"):
        draw_shares(LABELS, count, alpha, 0)
