"""A layout with every kind of cut, fleets of contributions over it, and a plain loop to compare with."""

from collections.abc import Callable

import numpy as np
import pytest

from server.aggregation.contribution import Contribution
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.sub_model import SubModel, gather, positions

MakeFleet = Callable[..., list[Contribution]]


@pytest.fixture
def cut_layout() -> Layout:
    return Layout(
        parameters=(
            Parameter("conv", (4, 3, 2), (CutAxis(0, "channels"), CutAxis(1, "inputs"))),
            Parameter("flattened", (2, 8), (CutAxis(1, "channels", block=2),)),
            Parameter("gates", (10, 5), (CutAxis(1, "units"), CutAxis(0, "units", repeat=2))),
            Parameter("heads", (3, 4, 5), (CutAxis(0, "inputs"), CutAxis(2, "units"), CutAxis(1, "channels"))),
            Parameter("gated blocks", (20, 3), (CutAxis(0, "units", block=2, repeat=2),)),
            Parameter("bias", (4,), (CutAxis(0, "channels"),)),
            Parameter("whole", (2,)),
            Parameter("scale", ()),
        ),
        groups=(NeuronGroup("channels", 4), NeuronGroup("inputs", 3), NeuronGroup("units", 5)),
    )


@pytest.fixture
def make_fleet(cut_layout: Layout) -> MakeFleet:
    """Contributions of devices with masks, values and weights of their own."""

    def make(devices: int, seed: int = 0, full: bool = False) -> list[Contribution]:
        generator = np.random.default_rng(seed)
        fleet = []
        for _ in range(devices):
            kept = {}
            for group in cut_layout.groups:
                count = group.size if full else int(generator.integers(1, group.size + 1))
                kept[group.name] = np.sort(generator.choice(group.size, count, replace=False))
            whole = {p.name: generator.normal(size=p.shape).astype(np.float32) for p in cut_layout.parameters}
            values = gather(cut_layout, SubModel(kept), whole)
            fleet.append(Contribution(SubModel(kept), values, int(generator.integers(1, 1000))))
        return fleet

    return make


@pytest.fixture
def by_hand(cut_layout: Layout) -> Callable[..., dict[str, np.ndarray]]:
    """A statistic at every coordinate in turn: from (scaled values, weights) of those who trained it."""

    def compute(fleet: list[Contribution], statistic: Callable[[list[float], list[float]], float]) -> dict:
        result = {}
        for parameter in cut_layout.parameters:
            held: dict[tuple, tuple[list[float], list[float]]] = {}
            for one in fleet:
                indices = np.broadcast_arrays(*positions(parameter, one.sub_model)) if parameter.shape else []
                places = zip(*(axis.ravel() for axis in indices), strict=True) if parameter.shape else [()]
                for place, value in zip(places, one.values[parameter.name].ravel(), strict=True):
                    values, weights = held.setdefault(tuple(map(int, place)), ([], []))
                    values.append(float(value) * one.scale)
                    weights.append(one.weight)
            result[parameter.name] = np.zeros(parameter.shape)
            for place, (values, weights) in held.items():
                result[parameter.name][place] = statistic(values, weights)
        return result

    return compute
