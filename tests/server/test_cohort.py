"""The fleet's ranking of neurons, and what becomes of those that are not in it."""

from collections.abc import Callable

import numpy as np
import pytest

from server.aggregation.masked_mean import WeightedMean
from server.cohort import Cohort, silenced
from server.next_model import Combining, Model
from server.screening import Screened
from server.server_optimizers.fed_avg import FedAvg
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import Update
from wire_protocol.neuron_scores import decode_ranking, encode_scores
from wire_protocol.sub_model import SubModel, gather

LAYOUT = Layout(
    (
        Parameter("w", (3,), (CutAxis(0, "a", produces=True),)),
        Parameter("v", (2, 6), (CutAxis(1, "a", produces=False, block=2),)),
    ),
    (NeuronGroup("a", 3),),
)
FULL = {"w": np.ones(3, np.float32), "v": np.arange(1, 13, dtype=np.float32).reshape(2, 6)}


@pytest.fixture
def screened(make_plan: Callable) -> Callable[..., Screened]:
    def make(*scores: float, kept: tuple[int, ...] = (0, 1, 2), **changes: object) -> Screened:
        plan = make_plan()
        update = Update(**{
            "run": plan.run, "round": plan.round, "model_version": 2, "examples": 1, "trained": 1, "scored": 1,
            "kept": {}, "precision": "float16", "values": b"",
            "scores": encode_scores(LAYOUT, {"a": np.array(scores, np.float32)}) if scores else b"", **changes,
        })  # fmt: skip
        sub_model = SubModel({"a": np.array(kept)})
        return Screened(
            update, sub_model, {name: 0 * values for name, values in gather(LAYOUT, sub_model, FULL).items()}
        )

    return make


def test_scores_are_summed_and_ranked(screened: Callable) -> None:
    cohort = Cohort(LAYOUT).hear([screened(4, 1, 2), screened(), screened(0, 1, 8)])  # in all 4, 2, 10
    assert cohort.ranking()["a"].tolist() == [2, 0, 1]


def test_without_scores_there_is_no_ranking(screened: Callable) -> None:
    assert Cohort(LAYOUT).hear([screened()]).ranking() == {}


@pytest.mark.parametrize(
    ("widths", "covered"),
    [((3,), 3), ((3, 1), 3), ((3, 1, 1), 1), ((3, 2, 1), 2), ((3, 3, 2, 1), 3), ((3, 2, 1, 1), 2)],
)
def test_a_ranking_has_as_many_neurons_as_half_of_the_devices_can_afford(screened, widths, covered) -> None:
    cohort = Cohort(LAYOUT).hear(screened(3, 2, 1, kept=tuple(range(width))) for width in widths)
    assert cohort.ranking()["a"].tolist() == list(range(covered))


def test_what_reads_a_neuron_outside_the_ranking_is_zero_and_all_else_stays() -> None:
    found = silenced(LAYOUT, FULL, {"a": np.array([2, 0])})
    np.testing.assert_array_equal(found["w"], FULL["w"])
    np.testing.assert_array_equal(found["v"], [[1, 2, 0, 0, 5, 6], [7, 8, 0, 0, 11, 12]])


@pytest.mark.parametrize(("selection", "again", "silent"), [
    ("fisher-cohort", False, True), ("fisher-cohort", True, False), ("fisher", False, False),
])  # fmt: skip
def test_the_first_ranking_silences_and_no_later_one(screened, make_plan, selection, again, silent) -> None:
    combining, optimizer = Combining(LAYOUT, WeightedMean(LAYOUT), FedAvg()), FedAvg()
    scores = (1, 3, 2) if selection == "fisher-cohort" else ()
    updates = [screened(*scores, kept=(0, 1))]
    before = Model(FULL, optimizer.init(FULL), {"a": b"\x00\x00\x00\x00"} if again else {})
    after, _ = combining.next_model(before, make_plan(selection=selection, resync_round=make_plan().round), updates)
    assert bool((after.parameters["v"] == 0).any()) == silent
    if scores:
        assert decode_ranking(LAYOUT, after.ranking)["a"].tolist() == [1, 2]
