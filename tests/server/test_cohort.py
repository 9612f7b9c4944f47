from collections.abc import Callable

import numpy as np
import pytest

from server.cohort import Cohort
from server.screening import Screened
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import Update
from wire_protocol.neuron_scores import decode_ranking, encode_scores

LAYOUT = Layout((Parameter("w", (3,), (CutAxis(0, "a", produces=True),)),), (NeuronGroup("a", 3),))


@pytest.fixture
def screened(make_plan: Callable) -> Callable[..., Screened]:
    def make(*scores: float) -> Screened:
        plan = make_plan()
        update = Update(
            run=plan.run, round=plan.round, model_version=2, examples=1, trained=1, scored=1, loss=0.0, kept={},
            precision="float16", values=b"",
            scores=encode_scores(LAYOUT, {"a": np.array(scores, np.float32)}) if scores else b"",
        )  # fmt: skip
        return Screened(update, None, {})  # type: ignore[arg-type]

    return make


def test_scores_are_summed_and_ranked(screened: Callable) -> None:
    cohort = Cohort(LAYOUT).hear([screened(4, 1, 2), screened(), screened(0, 1, 8)])  # in all 4, 2, 10
    assert decode_ranking(LAYOUT, cohort.ranking())["a"].tolist() == [2, 0, 1]


def test_without_scores_there_is_no_ranking(screened: Callable) -> None:
    assert Cohort(LAYOUT).hear([screened()]).ranking() == {}
