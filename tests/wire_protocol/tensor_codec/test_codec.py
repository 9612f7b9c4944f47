"""All codecs alike: bounds, totality, memory, and what leaving values out means."""

from __future__ import annotations

import tracemalloc
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wire_protocol.errors import InvalidValueError, ProtocolError
from wire_protocol.tensor_codec import Codec, decode, decode_alike, encode, expected_size, largest_size
from wire_protocol.tensor_codec import codec as tensor_codec
from wire_protocol.tensor_codec.compression import section
from wire_protocol.tensor_codec.positions import pack_positions

PRECISIONS = ("float32", "float16", "int8", "int4", "ternary")
SHAPES: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (4,), "empty": (0, 2), "c": ()}

codecs = st.builds(Codec, st.sampled_from(PRECISIONS), st.sampled_from([1e-9, 0.05, 0.3, 0.5, 0.99, 1.0]))
shapes_of = st.lists(hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=40), min_size=1, max_size=4).map(
    lambda shapes: {f"t{number}": shape for number, shape in enumerate(shapes)}
)


def drawn(shapes: dict[str, tuple[int, ...]], seed: int, zeros: float = 0.3) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    return {
        name: (generator.standard_t(2, shape) * (generator.random(shape) >= zeros)).astype(np.float32)
        for name, shape in shapes.items()
    }


@given(shapes=shapes_of, codec=codecs, seed=st.integers(0, 9), zeros=st.sampled_from([0.0, 0.5, 1.0]))
def test_any_arrays_come_back_near_within_the_bound(shapes, codec, seed, zeros) -> None:
    arrays = drawn(shapes, seed, zeros)
    for generator in (None, np.random.default_rng(seed)):
        payload = encode(arrays, shapes, codec, generator)
        assert len(payload) <= largest_size(shapes, codec)
        decoded = decode(payload, shapes, codec)
        assert {name: array.shape for name, array in decoded.items()} == dict(shapes)
        assert all(array.dtype == np.float32 and array.flags.writeable for array in decoded.values())
        sent = sum(np.count_nonzero(array) for array in decoded.values())
        assert sent <= codec.kept_of(sum(prod(shape) for shape in shapes.values()))
        for name, array in arrays.items():
            assert (decoded[name][array == 0] == 0).all()


@given(shapes=shapes_of, codec=codecs.filter(lambda codec: not codec.sparse), seed=st.integers(0, 9))
def test_uncompressed_bytes_are_the_largest_and_equal_everywhere(shapes, codec, seed) -> None:
    arrays = drawn(shapes, seed)
    payload = encode(arrays, shapes, codec, compress=False)
    assert len(payload) == largest_size(shapes, codec)
    assert payload == encode(arrays, shapes, codec, compress=False)
    again = decode(payload, shapes, codec)
    for name, array in decode(encode(arrays, shapes, codec), shapes, codec).items():
        np.testing.assert_array_equal(array, again[name])


@pytest.mark.parametrize("together", [1, 50, 2**16])
@pytest.mark.parametrize("keep_values", [0.3, 1.0])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_decoded_together_is_what_it_is_alone(
    precision: str, keep_values: float, together: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever an array of several ends: 13 values each, of which padded levels are no whole bytes."""
    monkeypatch.setattr(tensor_codec, "_TOGETHER", together)
    shapes, codec = {"a": (2, 3), "b": (5,), "empty": (0, 2), "c": (1, 2)}, Codec(precision, keep_values)
    payloads = [encode(drawn(shapes, seed), shapes, codec, compress=seed % 2 > 0) for seed in range(9)]
    for payload, one in zip(payloads, decode_alike(payloads, shapes, codec), strict=True):
        np.testing.assert_array_equal(one.vector.view(np.uint32), decode(payload, shapes, codec).vector.view(np.uint32))
        assert one.vector.flags.writeable
    with pytest.raises(ProtocolError):
        list(decode_alike([*payloads, payloads[0][:-1]], shapes, codec))
    assert list(decode_alike([], shapes, codec)) == []


def test_one_threshold_serves_all_tensors() -> None:
    shapes = {"small": (4,), "large": (4,)}
    arrays = {"small": np.array([4, 3, 2, 1], np.float32) / 100, "large": np.array([-4, 3, 2, 1], np.float32)}
    decoded = decode(encode(arrays, shapes, Codec("float32", 0.25)), shapes, Codec("float32", 0.25))
    assert decoded["small"].tolist() == [0, 0, 0, 0]
    assert decoded["large"].tolist() == [-4, 3, 0, 0]


def test_ternary_values_left_after_a_choice_are_signs_times_their_mean() -> None:
    codec, shapes = Codec("ternary", 0.5), {"x": (6,)}
    decoded = decode(encode({"x": np.array([1, -3, 0.1, 2, 0, 0.2])}, shapes, codec), shapes, codec)["x"]
    assert decoded.tolist() == [2, -2, 0, 2, 0, 0]


@given(codec=codecs, payload=st.binary(max_size=60))
@settings(max_examples=300)
def test_decoding_any_bytes_is_total(codec: Codec, payload: bytes) -> None:
    require_total(payload, codec)


@given(data=st.data(), codec=codecs)
@settings(max_examples=300)
def test_decoding_bytes_nearly_right_is_total(data: st.DataObject, codec: Codec) -> None:
    payload = bytearray(encode(drawn(SHAPES, data.draw(st.integers(0, 20))), SHAPES, codec))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    require_total(
        bytes(payload[: data.draw(st.integers(0, len(payload)))] if data.draw(st.booleans()) else payload), codec
    )


@given(data=st.data(), codec=codecs.filter(lambda codec: not codec.sparse))
@settings(max_examples=200)
def test_decoding_any_bytes_of_the_right_length_is_total(data: st.DataObject, codec: Codec) -> None:
    size = largest_size(SHAPES, codec) - 1
    require_total(b"\0" + data.draw(st.binary(min_size=size, max_size=size)), codec)


def require_total(payload: bytes, codec: Codec) -> None:
    try:
        arrays = decode(payload, SHAPES, codec)
    except ProtocolError:
        return
    assert {name: array.shape for name, array in arrays.items()} == SHAPES
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in arrays.values())


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("keep_values", [0.02, 0.999, 1.0])
@pytest.mark.parametrize("times", [1, 5])
def test_decoding_takes_at_most_four_times_the_arrays(precision: str, keep_values: float, times: int) -> None:
    shapes, codec = {"a": (500, 400), "b": (1000,)}, Codec(precision, keep_values)
    size = 201_000
    payloads = [encode(drawn(shapes, 0, zeros=0.0), shapes, codec)]
    if codec.sparse:
        everything = np.ones(size, dtype=np.bool_)
        everything[codec.kept_of(size) :] = False
        payloads.append(pack_positions(everything) + section([bytes(4 * size)], 1))
    payloads.append(section([bytes(100 * size)], 1))
    for payload in payloads:
        tracemalloc.start()
        try:
            vectors = [one.vector for one in decode_alike([payload] * times, shapes, codec)]
            assert len(vectors) == times
        except ProtocolError:
            pass
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak <= 4 * 4 * size * times + 100_000


@pytest.mark.parametrize("precision", PRECISIONS)
def test_too_long_a_payload_is_refused(precision: str) -> None:
    codec = Codec(precision)
    with pytest.raises(ProtocolError, match="expected at most"):
        decode(bytes(largest_size(SHAPES, codec) + 1), SHAPES, codec)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("keep_values", [0.01, 0.05, 0.2, 1.0])
def test_expected_sizes_are_near_for_heavy_tailed_values(precision: str, keep_values: float) -> None:
    shapes, codec = {"w": (400, 500), "b": (500,)}, Codec(precision, keep_values)
    found = len(encode(drawn(shapes, 0, zeros=0.0), shapes, codec, np.random.default_rng(0)))
    assert 0.5 < found / expected_size(shapes, codec) < 2


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("int3",), "precision must be one of float32, float16, int8, int4, ternary, got 'int3'"),
        (("int4", 0.0), "keep_values must be above 0 and at most 1, got 0"),
        (("int4", 1.5), "keep_values must be above 0 and at most 1, got 1.5"),
        (("int4", float("nan")), "keep_values must be above 0"),
    ],
)
def test_illegal_codecs_are_refused(arguments: tuple, reason: str) -> None:
    with pytest.raises(InvalidValueError, match=reason):
        Codec(*arguments)
