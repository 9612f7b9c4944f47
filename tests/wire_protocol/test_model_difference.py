from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.model_difference import Coding, apply_difference, encode_difference
from wire_protocol.tensor_codec import Codec, decode, encode

SHAPES = {"w": (30, 40), "b": (5,)}

codings = st.builds(
    Coding,
    st.just(SHAPES),
    st.sampled_from(["float32", "float16", "int8"]).map(Codec),
    st.sampled_from(["float16", "int8", "int4"]).map(Codec),
)


def drawn(generator: np.random.Generator, spread: float) -> dict[str, np.ndarray]:
    return {name: generator.normal(0, spread, shape).astype(np.float32) for name, shape in SHAPES.items()}


def distance(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.square(a[name] - b[name], dtype=np.float64).sum() for name in SHAPES)))


@given(coding=codings, seed=st.integers(0, 50))
def test_devices_with_the_base_get_the_very_bytes_of_the_whole_model(coding: Coding, seed: int) -> None:
    generator = np.random.default_rng(seed)
    base, new = drawn(generator, 1), drawn(generator, 1)
    coded = encode_difference(new, base, coding)
    assert apply_difference(coded.difference, base, coding) == coded.whole
    decode(coded.whole, SHAPES, coding.whole)


@pytest.mark.parametrize(("precision", "error"), [("int8", 0.012), ("int4", 0.2)])
def test_errors_do_not_add_up(precision: str, error: float) -> None:
    """After 40 models in a row, the last is as far from the server's as one difference's coding leaves it."""
    coding = Coding(SHAPES, Codec("float16"), Codec(precision))
    generator = np.random.default_rng(0)
    model = drawn(generator, 1)
    base = decode(encode(model, SHAPES, coding.whole, compress=False), SHAPES, coding.whole)
    for _ in range(40):
        move = drawn(generator, 0.01)
        model = {name: array + move[name] for name, array in model.items()}
        ahead = distance(model, base)
        coded = encode_difference(model, base, coding)
        base = decode(apply_difference(coded.difference, base, coding), SHAPES, coding.whole)
        whole_rounding = 2.0**-11 * distance(model, {name: 0 * array for name, array in model.items()})
        assert distance(model, base) <= error * ahead + whole_rounding
    assert distance(model, base) < 0.3 * distance(move, {name: 0 * array for name, array in move.items()})


def test_a_difference_is_a_fraction_of_the_whole() -> None:
    coding = Coding(SHAPES, Codec("float16"), Codec("int4"))
    generator = np.random.default_rng(0)
    base = drawn(generator, 1)
    coded = encode_difference({name: 1.001 * array for name, array in base.items()}, base, coding)
    assert len(coded.difference) < len(coded.whole) / 3.9


@given(payload=st.binary(max_size=80))
def test_any_bytes_are_refused_or_applied(payload: bytes) -> None:
    coding = Coding({"x": (3,)}, Codec("float16"), Codec("int4"))
    base = {"x": np.array([1, -1, 3e38], np.float32)}
    try:
        whole = apply_difference(payload, base, coding)
    except ProtocolError:
        return
    assert np.isfinite(decode(whole, coding.shapes, coding.whole)["x"]).all()


def test_a_difference_that_leads_out_of_range_is_refused() -> None:
    coding = Coding({"x": (1,)}, Codec("float32"), Codec("float32"))
    far = {"x": np.array([3e38], np.float32)}
    with pytest.raises(ProtocolError, match="out of range"):
        apply_difference(encode(far, coding.shapes, coding.difference), far, coding)


def test_neither_may_leave_values_out() -> None:
    with pytest.raises(InvalidValueError, match="keep_values of difference must be 1"):
        Coding(SHAPES, Codec("float16"), Codec("int4", 0.5))
