"""A fifth of a small fleet does harm: with outliers left out accuracy stays near the clean fleet's. Seeded."""

import pytest

from benchmarks.in_memory_fleet import Method
from benchmarks.poisoning import RULES, Bed, make_bed

METHOD = Method(rounds=15, keep=0.5, local_steps=10, batch_size=16, learning_rate=0.15)
FEW_POINTS = 5.0


@pytest.fixture(scope="module")
def bed(tmp_path_factory: pytest.TempPathFactory) -> Bed:
    return make_bed(tmp_path_factory.mktemp("bundle"), METHOD, alpha=1.0, seed=0)


@pytest.fixture(scope="module")
def clean(bed: Bed) -> float:
    return bed.accuracy("none", RULES["mean"], "keep")


def test_screening_costs_an_honest_fleet_nothing(bed: Bed, clean: float) -> None:
    assert clean > 85
    assert abs(bed.accuracy("none", RULES["mean"], "leave-out") - clean) < 1


@pytest.mark.parametrize(("attack", "at_most"), [("sign flipped", 80), ("times 100", 20)])
def test_the_mean_of_all_loses(bed: Bed, attack: str, at_most: float) -> None:
    assert bed.accuracy(attack, RULES["mean"], "keep") < at_most


@pytest.mark.parametrize(
    ("attack", "rule"),
    [
        ("labels flipped", "mean"),
        ("sign flipped", "mean"),
        ("times 100", "mean"),
        ("sign flipped", "trimmed mean, 0.2"),
        ("times 100", "median"),
        ("labels flipped", "mean, norm bound 1"),
    ],
)
def test_with_outliers_left_out_it_stays_within_a_few_points(bed: Bed, clean: float, attack: str, rule: str) -> None:
    assert bed.accuracy(attack, RULES[rule], "leave-out") > clean - FEW_POINTS
