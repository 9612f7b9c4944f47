import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from server.aggregation.contribution import Contribution
from server.aggregation.flat_model import FlatModel
from server.aggregation.fold import fold
from server.aggregation.masked_mean import MaskedMean, WeightedMean
from server.aggregation.median import Median
from server.aggregation.norm_bound import NormBounded
from server.aggregation.rule import AggregationRule
from server.compute_account import Compute, compute_of
from server.screening import Screened
from wire_protocol.messages import Update
from wire_protocol.sub_model import SubModel, full_sub_model, gather, to_bitmaps


@pytest.fixture
def updates(layout: object, keeping: Callable[..., SubModel]) -> list[Screened]:
    generator = np.random.default_rng(0)
    made = []
    for number in range(12):
        kept = full_sub_model(layout) if number % 3 else keeping(0, 3)
        full = {p.name: generator.normal(size=p.shape).astype(np.float32) for p in layout.parameters}
        update = Update(
            run="run",
            round=1,
            model_version=0,
            examples=int(generator.integers(1, 1000)),
            trained=10,
            scored=number,
            kept=to_bitmaps(layout, kept),
            precision="float32",
            values=b"",
        )
        made.append(Screened(update, kept, gather(layout, kept, full)))
    return made


def test_a_fold_is_the_masked_mean_and_the_account(layout: object, updates: list[Screened]) -> None:
    mean, compute = MaskedMean(FlatModel(layout)), Compute()
    for one in updates:
        mean.add(Contribution(one.sub_model, one.values, one.update.examples))
        compute += compute_of(layout, one.sub_model, one.update)
    folded = fold(layout, updates, WeightedMean(layout))
    assert folded.compute == compute
    for name, array in mean.mean().difference.items():
        np.testing.assert_array_equal(folded.aggregate.difference[name], array)


def test_sums_depend_on_the_order_so_the_order_is_the_callers(layout: object, updates: list[Screened]) -> None:
    """In float64 2^60 + 1 is 2^60."""
    large, one, opposite = (
        replace(
            updates[1],
            update=msgspec.structs.replace(updates[1].update, examples=1),
            values={p.name: np.full(p.shape, value, dtype=np.float32) for p in layout.parameters},
        )
        for value in (2.0**60, 1.0, -(2.0**60))
    )

    def b2(*ordered: Screened) -> list[float]:
        return fold(layout, ordered, WeightedMean(layout)).aggregate.difference["b2"].tolist()

    assert b2(large, one, opposite) == [0.0, 0.0]
    assert b2(large, opposite, one) == [float(np.float32(1 / 3))] * 2


@pytest.mark.parametrize("make", [WeightedMean, lambda layout: NormBounded(Median(layout, budget_bytes=100), 1.0)])
def test_while_an_update_is_read_only_the_one_before_is_in_memory(
    layout: object, updates: list[Screened], make: Callable[[object], AggregationRule]
) -> None:
    class OneByOne:
        def __len__(self) -> int:
            return len(updates)

        def __iter__(self) -> Iterator[Screened]:
            made: list[weakref.ref[Screened]] = []
            for one in updates:
                assert sum(reference() is not None for reference in made) <= 1
                fresh = replace(one, values=dict(one.values))
                made.append(weakref.ref(fresh))
                yield fresh
                del fresh

    assert fold(layout, OneByOne(), make(layout)).compute == fold(layout, updates, WeightedMean(layout)).compute


def test_a_scale_shrinks_differences_and_leaves_weights_alone(layout: object, updates: list[Screened]) -> None:
    mean = MaskedMean(FlatModel(layout))
    for one in updates:
        mean.add(Contribution(one.sub_model, one.values, one.update.examples, 1 / (1 + one.update.scored)))
    folded = fold(layout, updates, WeightedMean(layout), lambda update: 1 / (1 + update.scored))
    for name, array in mean.mean().difference.items():
        np.testing.assert_array_equal(folded.aggregate.difference[name], array)
        assert not np.array_equal(array, fold(layout, updates, WeightedMean(layout)).aggregate.difference[name])
