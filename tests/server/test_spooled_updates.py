from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from server import screening
from server.errors import DamagedError
from server.records import UpdateRecord
from server.round_work import SpooledUpdates
from server.screening import Screened, screen
from server.spool import Spool
from wire_protocol import messages, tensor_codec
from wire_protocol.layout import Layout
from wire_protocol.messages import RoundPlan, Update
from wire_protocol.sub_model import SubModel, full_sub_model, gather, sub_shapes, to_bitmaps


@pytest.fixture
def bodies(layout: Layout, make_plan: Callable[..., RoundPlan], keeping: Callable[..., SubModel]) -> list[bytes]:
    """Of nine devices, three widths in turn."""
    generator, plan = np.random.default_rng(0), make_plan()
    kept = [keeping(0, 2), full_sub_model(layout), keeping(1)]
    return [_body(layout, plan, kept[number % 3], generator) for number in range(9)]


def _body(layout: Layout, plan: RoundPlan, kept: SubModel, generator: np.random.Generator) -> bytes:
    full = {p.name: generator.normal(size=p.shape).astype(np.float32) for p in layout.parameters}
    values = tensor_codec.encode(gather(layout, kept, full), sub_shapes(layout, kept.widths), plan.codec)
    counts = {"examples": 1, "trained": 8, "scored": 0}
    return messages.encode(
        Update(
            run=plan.run,
            round=plan.round,
            model_version=plan.model_version,
            kept=to_bitmaps(layout, kept),
            precision=plan.precision,
            values=values,
            **counts,
        )
    )


def spooled(folder: Path, layout: Layout, bodies: Sequence[bytes]) -> SpooledUpdates:
    segment = Spool(folder, "run").segment(1, 0)
    rows = tuple(
        UpdateRecord("run", 1, f"device-{number}", b"", extent.offset, extent.length, 1)
        for number, extent in enumerate(segment.write(bodies))
    )
    return SpooledUpdates(segment, rows, layout)


@pytest.mark.parametrize("together", [1, 4, 100])
def test_they_are_what_was_screened_in_their_order_however_many_are_read_together(
    tmp_path: Path,
    layout: Layout,
    make_plan: Callable[..., RoundPlan],
    bodies: list[bytes],
    monkeypatch: pytest.MonkeyPatch,
    together: int,
) -> None:
    monkeypatch.setattr(screening, "_VALUES_TOGETHER", together * layout.element_count)
    updates = spooled(tmp_path, layout, bodies)
    for _ in range(2):
        for body, found in zip(bodies, updates, strict=True):
            expected = screen(body, make_plan(keep=1.0), layout)
            assert isinstance(expected, Screened)
            assert found.update == expected.update
            assert found.sub_model.widths == expected.sub_model.widths
            for name, array in expected.values.items():
                np.testing.assert_array_equal(found.values[name], array)


def test_one_that_is_damaged_is_told_from_those_read_together_with_it(
    tmp_path: Path, layout: Layout, bodies: list[bytes]
) -> None:
    damaged = [*bodies[:4], bodies[4][:-1], *bodies[5:]]
    with pytest.raises(DamagedError, match="round 1: the update of device-4 in the spool: "):
        list(spooled(tmp_path, layout, damaged))
