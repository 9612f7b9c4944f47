from collections.abc import Callable
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from server.aggregation.fold import fold
from server.aggregation.masked_mean import MaskedMean
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
            loss=1.0,
            kept=to_bitmaps(layout, kept),
            precision="float32",
            values=b"",
        )
        made.append(Screened(update, kept, gather(layout, kept, full)))
    return made


def test_a_fold_is_the_masked_mean_and_the_account(layout: object, updates: list[Screened]) -> None:
    mean, compute = MaskedMean(layout), Compute()
    for one in updates:
        mean.add(one.sub_model, one.values, one.update.examples)
        compute += compute_of(layout, one.sub_model, one.update)
    folded = fold(layout, iter(updates))
    assert folded.compute == compute
    for name, array in mean.mean().items():
        np.testing.assert_array_equal(folded.mean[name], array)


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
    assert fold(layout, [large, one, opposite]).mean["b2"].tolist() == [0.0, 0.0]
    assert fold(layout, [large, opposite, one]).mean["b2"].tolist() == [float(np.float32(1 / 3))] * 2


def test_one_update_is_in_memory_at_a_time(layout: object, updates: list[Screened]) -> None:
    alive: list[int] = []

    def one_by_one() -> object:
        for index, one in enumerate(updates):
            alive.append(index)
            yield one
        assert alive == list(range(len(updates)))

    fold(layout, one_by_one())
