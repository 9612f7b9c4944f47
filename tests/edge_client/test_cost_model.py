import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import nnls

from edge_client.cost_model import LayoutSizes, Measured, fit_costs, non_negative_least_squares
from edge_client.round_cost import RESOURCES, Room, RoundCost, update_bytes
from wire_protocol.layout import CutAxis, Layout, NeuronGroup, Parameter
from wire_protocol.messages import RoundPlan
from wire_protocol.sub_model import element_count, multiply_accumulates

LAYOUT = Layout(
    (
        Parameter("conv", (16, 1, 3, 3), (CutAxis(0, "a", produces=True),), uses_per_example=100),
        Parameter("bias", (16,), (CutAxis(0, "a", produces=True),)),
        Parameter("dense", (64, 16 * 25), (CutAxis(0, "b", produces=True), CutAxis(1, "a", block=25)), 1),
        Parameter("out", (10, 64), (CutAxis(1, "b"),), 1),
        Parameter("out_bias", (10,)),
    ),
    (NeuronGroup("a", 16), NeuronGroup("b", 64)),
)


@given(a=st.integers(1, 16), b=st.integers(1, 64))
def test_counts_are_those_of_the_layout(a, b):
    sizes, widths = LayoutSizes(LAYOUT), {"a": a, "b": b}
    row = sizes.row(widths)
    assert sizes.elements(row).tolist() == [element_count(LAYOUT, widths)]
    assert sizes.multiply_accumulates(row).tolist() == [multiply_accumulates(LAYOUT, widths)]
    assert sizes.activations(row).tolist() == [100 * a + b]
    assert sizes.named(row[0]) == widths


@given(seed=st.integers(0, 10_000), rows=st.integers(1, 8), columns=st.integers(1, 4))
def test_coefficients_are_scipys_and_never_negative(seed, rows, columns):
    generator = np.random.default_rng(seed)
    terms, values = generator.standard_normal((rows, columns)), generator.standard_normal(rows)
    found, (_, rest) = non_negative_least_squares(terms, values), nnls(terms, values)
    assert (found >= 0).all()
    assert np.linalg.norm(terms @ found - values) == pytest.approx(rest, abs=1e-6)


def test_costs_that_are_such_lines_are_found_and_predicted_elsewhere():
    sizes = LayoutSizes(LAYOUT)

    def truth(widths):
        row = sizes.row(widths)
        step = 1e-3 + 2e-8 * sizes.multiply_accumulates(row)[0] + 3e-6 * sizes.activations(row)[0]
        return Measured(widths, step, 5e-4 + 1e-8 * sizes.elements(row)[0], 80.0 + 1e-3 * sizes.elements(row)[0])

    measured = [{"a": 8, "b": 8}, {"a": 8, "b": 32}, {"a": 16, "b": 8}, {"a": 16, "b": 64}]
    model = fit_costs(LAYOUT, [truth(widths) for widths in measured])
    other = {"a": 11, "b": 50}
    row, expected = sizes.row(other), truth(other)
    assert model.round_seconds(row, 10)[0] == pytest.approx(10 * expected.step_seconds + expected.once_seconds)
    assert model.peak_mb(row)[0] == pytest.approx(expected.peak_mb)


def test_one_measurement_is_enough_for_a_guess():
    model = fit_costs(LAYOUT, [Measured({"a": 8, "b": 8}, 0.01, 0.0, 90.0)])
    row = model.sizes.row({"a": 8, "b": 8})
    assert model.round_seconds(row, 1)[0] == pytest.approx(0.01)
    assert model.peak_mb(row)[0] == pytest.approx(90.0)


def plan(**changes) -> RoundPlan:
    return RoundPlan(**{
        "run": "r", "round": 1, "resync_round": 1, "model_version": 0, "bundle": "b" * 64, "model": "a" * 64,
        "deadline": 0.0, "local_steps": 10, "batch_size": 8, "learning_rate": 0.1, "keep": 1.0, **changes,
    })  # fmt: skip


@pytest.mark.parametrize(
    ("precision", "top_k", "each"), [("float32", 1, 3.7), ("float16", 1, 1.725), ("int4", 1, 0.275)]
)
def test_an_updates_bytes_are_a_line_in_its_values(precision, top_k, each):
    """By what the codec expects of a value (`expected_size`)."""
    fixed, found = update_bytes(LAYOUT, plan(precision=precision, top_k=top_k), LAYOUT.group_sizes)
    assert found == pytest.approx(each, rel=1e-3)
    assert 400 < fixed < 800


def test_a_rounds_costs_by_hand():
    model = fit_costs(LAYOUT, [Measured({"a": 8, "b": 8}, 0.5, 0.0, 90.0)])
    cost = RoundCost(
        model, 10, fixed_bytes=100, bytes_an_element=2, bytes_per_second=1000, scoring_seconds=3, scoring_mb=120
    )
    row = model.sizes.row({"a": 8, "b": 8})
    elements = element_count(LAYOUT, {"a": 8, "b": 8})
    size = 100 + 2 * elements
    assert cost.uses(row)[0].tolist() == pytest.approx([5.0, 5.0 + size / 1000, size, 90.0])
    assert cost.with_scoring().uses(row)[0].tolist() == pytest.approx([8.0, 8.0 + size / 1000, size, 120.0])
    assert dict(zip(RESOURCES, Room(1, 10, 3, 4).row.tolist(), strict=True)) == {
        "seconds_per_round": 1, "deadline": 8.0, "bytes_per_day": 3, "memory_mb": 4,
    }  # fmt: skip
