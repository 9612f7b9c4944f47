"""The planner on made-up costs: what it must hold whatever scores, costs and limits are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_client.fitting import BLOCK, Problem, fit
from wire_protocol.errors import InvalidValueError

RESOURCES = 3


def costs(weights, products):
    """Costs that grow with every width: linear in each and with a product of neighbours, as layers cost."""

    def uses(widths):
        beside = (widths[:, :-1] * widths[:, 1:]).sum(axis=1, keepdims=True)
        return 1.0 + widths @ weights.T + beside * products

    return uses


@st.composite
def problems(draw, scored=True):
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=5))
    generator = np.random.default_rng(draw(st.integers(0, 10_000)))
    weights = generator.random((RESOURCES, len(sizes))) * generator.integers(0, 2, (RESOURCES, len(sizes)))
    uses = costs(weights, generator.random(RESOURCES) * draw(st.sampled_from([0.0, 0.1])))
    most = np.array([draw(st.integers(1, size)) for size in sizes])
    scores = [generator.exponential(size=size) ** 3 for size in sizes] if scored else None
    whole = uses(most[None])[0]
    limits = whole * np.array([draw(st.floats(0.05, 1.2)) for _ in range(RESOURCES)])
    return Problem(most, limits, uses, scores)


def smallest(problem):
    return np.minimum(BLOCK, problem.most)


def raised(problem, factor, at):
    limits = problem.limits.copy()
    limits[at] *= factor
    return Problem(problem.most, limits, problem.uses, problem.scores)


@given(problem=problems() | problems(scored=False))
def test_no_limit_is_ever_exceeded_and_widths_stay_between_smallest_and_most(problem):
    fitted = fit(problem)
    fits = bool((problem.uses(smallest(problem)[None])[0] <= problem.limits).all())
    assert fitted.affordable == fits
    assert (smallest(problem) <= fitted.widths).all()
    assert (fitted.widths <= problem.most).all()
    np.testing.assert_array_equal(fitted.uses, problem.uses(fitted.widths[None])[0])
    if fits:
        assert (fitted.uses <= problem.limits).all()


@given(problem=problems() | problems(scored=False), factor=st.floats(1.0, 3.0), at=st.integers(0, RESOURCES - 1))
def test_a_limit_that_is_raised_never_lowers_the_mass(problem, factor, at):
    before, after = fit(problem), fit(raised(problem, factor, at))
    if before.affordable:
        assert after.affordable
        assert after.mass >= before.mass


@given(problem=problems() | problems(scored=False))
def test_the_same_problem_has_the_same_plan(problem):
    first, second = fit(problem), fit(problem)
    assert first.widths.tolist() == second.widths.tolist()
    assert (first.mass, first.binds, first.affordable) == (second.mass, second.binds, second.affordable)


@given(problem=problems() | problems(scored=False))
def test_what_binds_is_the_reason_why_a_plan_ends(problem):
    fitted = fit(problem)
    if fitted.binds is None:
        assert fitted.widths.tolist() == problem.most.tolist()
        return
    lifted = fit(raised(problem, 1000.0, fitted.binds))
    if not fitted.affordable:
        assert problem.uses(fitted.widths[None])[0, fitted.binds] > problem.limits[fitted.binds]
    assert lifted.mass >= fitted.mass
    assert lifted.binds != fitted.binds or lifted.uses[fitted.binds] >= fitted.uses[fitted.binds]


def alike(limit, scores):
    """Two groups of 32 whose neurons cost 1 each."""
    return Problem(
        np.array([32, 32]), np.array([limit]), lambda widths: widths.sum(axis=1, keepdims=True) * 1.0, scores
    )


def test_the_group_with_more_mass_comes_first():
    fitted = fit(alike(40.0, [np.ones(32), np.full(32, 5.0)]))
    assert (fitted.widths.tolist(), fitted.binds) == ([8, 32], 0)


def test_of_a_block_that_does_not_fit_whole_as_many_neurons_are_taken_as_do():
    fitted = fit(alike(27.0, [np.ones(32), np.full(32, 5.0)]))
    assert fitted.widths.tolist() == [8, 19]
    assert fitted.mass == pytest.approx((8 + 19 * 5) / (32 * 6))


def test_mass_counts_against_its_cost():
    """The second group has twice the mass a neuron at four times the price."""
    prices = np.array([[1.0], [4.0]])
    scores = [np.ones(32), np.full(32, 2.0)]
    fitted = fit(Problem(np.array([32, 32]), np.array([64.0]), lambda widths: widths @ prices, scores))
    assert fitted.widths.tolist() == [32, 8]


def test_the_order_by_the_scarce_resource_wins():
    """Group 0 is cheap in resource 0, group 1 in resource 1; only resource 1 is scarce."""
    prices = np.array([[1.0, 4.0], [4.0, 1.0]])
    scores = [np.ones(32), np.ones(32)]
    fitted = fit(Problem(np.array([32, 32]), np.array([1e6, 64.0]), lambda widths: widths @ prices, scores))
    assert (fitted.widths.tolist(), fitted.binds) == ([8, 32], 1)


def test_without_scores_groups_grow_evenly():
    most = np.array([32, 64])
    fitted = fit(Problem(most, np.array([48.0]), lambda widths: widths.sum(axis=1, keepdims=True) * 1.0))
    assert fitted.widths.tolist() == [16, 32]


def test_groups_smaller_than_a_block_are_whole_from_the_start():
    fitted = fit(Problem(np.array([3, 16]), np.array([11.0]), lambda widths: widths.sum(axis=1, keepdims=True) * 1.0))
    assert (fitted.widths.tolist(), fitted.affordable) == ([3, 8], True)


def test_a_model_without_groups_fits_or_does_not():
    none = np.zeros(0, np.int64)
    for limit, fits in ((2.0, True), (0.5, False)):
        fitted = fit(Problem(none, np.array([limit]), lambda widths: np.ones((len(widths), 1)), []))
        assert fitted.affordable == fits


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0])
def test_scores_that_mean_nothing_are_refused(value):
    with pytest.raises(InvalidValueError, match="scores of group 1 must be finite and not negative"):
        alike(40.0, [np.ones(32), np.array([value] * 32)])
