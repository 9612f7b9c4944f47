from collections.abc import Callable

from server.compute_account import Compute, compute_of
from wire_protocol.messages import Update


def test_a_narrow_model_costs_its_share(layout: object, keeping: Callable) -> None:
    update = Update(
        run="run",
        round=1,
        model_version=0,
        examples=7,
        trained=10,
        scored=7,
        kept={},
        precision="float32",
        values=b"",
    )
    half = compute_of(layout, keeping(0, 3), update)
    assert half == Compute(trained=3 * 10 * 10, scored=3 * 20 * 7, full=3 * 20 * 10)
    assert half + half == Compute(trained=600, scored=840, full=1200)
