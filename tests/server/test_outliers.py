from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from server.outliers import Kept, find_outliers
from server.screening import Screened
from wire_protocol.layout import Layout
from wire_protocol.messages import Update
from wire_protocol.sub_model import SubModel, gather

DIRECTION = np.random.default_rng(1).normal(size=26).astype(np.float32)


@pytest.fixture
def moving(layout: Layout, keeping: Callable[..., SubModel]) -> Callable[..., Screened]:
    """An update that goes `factor` times where the fleet goes, with its own deviation."""

    def make(device: int, factor: float = 1.0, kept: tuple[int, ...] = (0, 1, 2, 3)) -> Screened:
        own = np.random.default_rng([2, device]).normal(size=26).astype(np.float32)
        flat, full, start = np.float32(factor) * (DIRECTION + np.float32(0.5) * own), {}, 0
        for parameter in layout.parameters:
            size = int(np.prod(parameter.shape))
            full[parameter.name] = flat[start : start + size].reshape(parameter.shape)
            start += size
        update = Update(
            run="run",
            round=3,
            model_version=2,
            examples=1,
            trained=1,
            scored=0,
            kept={},
            precision="float32",
            values=b"\x00",
        )
        return Screened(update, keeping(*kept), gather(layout, keeping(*kept), full))

    return make


def test_who_agrees_is_kept(layout: Layout, moving: Callable) -> None:
    assert find_outliers(layout, [moving(device) for device in range(20)]) == ()


@pytest.mark.parametrize(("factor", "words"), [(100.0, "its norm"), (-1.0, "points away"), (-100.0, "its norm")])
def test_a_fifth_that_multiplies_is_found_and_told_why(
    layout: Layout, moving: Callable, factor: float, words: str
) -> None:
    updates = [moving(device, factor if device % 5 == 0 else 1.0) for device in range(10)]
    found = find_outliers(layout, updates)
    assert [one.place for one in found] == [0, 5]
    assert all(one.reason.startswith("outlier: ") and words in one.reason for one in found)


def test_who_has_most_to_learn_yet_is_kept(layout: Layout, moving: Callable) -> None:
    others = [moving(device) for device in range(1, 10)]
    assert find_outliers(layout, [moving(0, 4.5), *others]) == ()
    assert [one.place for one in find_outliers(layout, [moving(0, 6.0), *others])] == [0]


def test_where_all_pull_their_own_way_nobody_points_away(layout: Layout, moving: Callable) -> None:
    """As at the end of training: all updates add up to nearly nothing, so each points away from the others."""
    updates = [moving(device) for device in range(60, 66)]
    mean = {name: np.mean([one.values[name] for one in updates], axis=0) for name in updates[0].values}
    apart = [replace(one, values={name: one.values[name] - mean[name] for name in mean}) for one in updates]
    assert find_outliers(layout, apart) == ()


def test_a_short_update_does_no_harm(layout: Layout, moving: Callable) -> None:
    assert find_outliers(layout, [moving(device, 1e-4 if device == 0 else 1.0) for device in range(10)]) == ()


def test_an_update_of_zeros_is_kept_and_nobody_divides_by_it(layout: Layout, moving: Callable) -> None:
    zeros = [moving(device, 0.0) for device in range(6)]
    assert find_outliers(layout, zeros) == ()
    assert find_outliers(layout, [*zeros[:1], *(moving(device) for device in range(1, 8))]) == ()


def test_norms_are_compared_among_those_that_train_as_much(layout: Layout, moving: Callable) -> None:
    wide = [moving(device, 10.0) for device in range(5)]
    narrow = [moving(device, 1.0, kept=(device % 4,)) for device in range(5, 10)]
    assert find_outliers(layout, wide + narrow) == ()
    loud = moving(9, 100.0, kept=(1,))
    assert [one.place for one in find_outliers(layout, [*wide, *narrow[:-1], loud])] == [9]


def test_labels_of_ones_own_are_no_harm(layout: Layout, moving: Callable) -> None:
    """They turn the weights that give the output, not those that everyone shares."""

    def turned(one: Screened, *names: str) -> Screened:
        return replace(one, values={name: -value if name in names else value for name, value in one.values.items()})

    others = [moving(device) for device in range(1, 10)]
    assert find_outliers(layout, [turned(moving(0), "w2", "b1", "b2"), *others]) == ()
    assert [one.place for one in find_outliers(layout, [turned(moving(0), "w1", "w2"), *others])] == [0]


def test_few_say_nothing_about_each_other(layout: Layout, moving: Callable) -> None:
    few = [moving(0, 1000.0), *(moving(device) for device in range(1, 4))]
    assert find_outliers(layout, few) == ()
    assert [one.place for one in find_outliers(layout, [*few, moving(4)])] == [0]


def test_the_verdict_is_the_same_again_and_needs_no_memory_of_others(layout: Layout, moving: Callable) -> None:
    updates = [moving(device, -3.0 if device in {2, 7} else 1.0) for device in range(12)]
    first = find_outliers(layout, updates)
    assert first == find_outliers(layout, tuple(replace(one) for one in updates))
    kept = Kept(updates, frozenset(one.place for one in first))
    assert len(kept) == 10
    assert list(kept) == [one for place, one in enumerate(updates) if place not in {2, 7}]
    assert list(kept) == list(kept)
