"""Targets that are no labels: what a bundle's loss makes of a data file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from wire_protocol import bundle_manifest as bm
from wire_protocol.errors import InvalidValueError
from wire_protocol.examples import Examples, ExamplesError, examples_from, fit_examples, in_range, load_examples
from wire_protocol.layout import Layout, Parameter

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def manifest(loss: bm.LossName, output_shape: tuple[int, ...], classes: int = 0) -> bm.BundleManifest:
    return bm.BundleManifest(
        format=bm.FORMAT,
        model="own",
        input_shape=(3,),
        classes=classes,
        layout=Layout((Parameter("weight", (2, 3)),)),
        files={},
        loss=loss,
        output_shape=output_shape,
    )


def read(y: Any = None) -> Examples:
    arrays = {"x": X} if y is None else {"x": X, "y": np.asarray(y)}
    return examples_from(arrays, "d", labelled=False)


@pytest.mark.parametrize(
    ("y", "shape"),
    [(np.ones((4, 2)), (2,)), (np.arange(4), (1,)), ([0.5, 1, 2, -3], (1,)), ([0.5, 1, 2, 3], ()), (X > 3, (3,))],
)
def test_float_targets_have_the_outputs_shape(y: Any, shape: tuple[int, ...]) -> None:
    fitted = fit_examples(read(y), manifest("mse", shape), "d")
    assert (fitted.y.dtype, fitted.y.shape) == (np.float32, (4, *shape))
    np.testing.assert_array_equal(fitted.y.ravel(), np.asarray(y, dtype=np.float32).ravel())


@pytest.mark.parametrize("shape", [(3,), (1, 3), (3, 1)])
def test_inputs_stand_for_targets_that_are_left_out(shape: tuple[int, ...], tmp_path: Path) -> None:
    np.savez(tmp_path / "d.npz", x=X)
    fitted = fit_examples(load_examples(tmp_path / "d.npz", labelled=False), manifest("mse", shape), "d")
    np.testing.assert_array_equal(fitted.y, X.reshape(4, *shape))
    taken = fitted.take(np.array([2, 0]))
    np.testing.assert_array_equal(taken.y, X.reshape(4, *shape)[[2, 0]])
    assert (taken.y is taken.x) == (shape == (3,))


def test_labels_are_taken_as_before() -> None:
    fitted = fit_examples(read([0, 1, 1, 0]), manifest("cross-entropy", (2,), 2), "d")
    assert fitted.y.dtype == np.int64


@pytest.mark.parametrize(
    ("y", "bundle", "problem"),
    [
        (
            None,
            manifest("mse", (2,)),
            r"d has no array 'y', and x of shape \(4, 3\), expected targets of shape \(4, 2\)",
        ),
        (np.ones((4, 3)), manifest("mse", (3, 1)), r"d has y of shape \(4, 3\), expected targets of shape \(4, 3, 1\)"),
        (np.ones(4), manifest("mse", (2,)), r"d has y of shape \(4,\)"),
        ([0, 1, 2, 0], manifest("bce", (1,)), "y in d holds 0 to 2, expected targets from 0 to 1"),
        ([0, 1, -0.5, 0], manifest("bce", ()), "y in d holds -0.5 to 1"),
        (None, manifest("cross-entropy", (), 2), r"d has no array 'y', expected integer labels of shape \(4,\)"),
        (np.ones(4), manifest("cross-entropy", (), 2), r"d has y of type float32 and shape \(4,\), expected integer"),
        ([0, 1, 2, 0], manifest("cross-entropy", (), 2), "y in d holds label 2, expected labels from 0 to 1"),
        ([0, 1, -1, 0], manifest("cross-entropy", (), 2), "y in d holds label -1, expected labels from 0 to 1"),
    ],
)
def test_targets_that_do_not_fit_are_refused(y: Any, bundle: bm.BundleManifest, problem: str) -> None:
    with pytest.raises(ExamplesError, match=problem):
        fit_examples(read(y), bundle, "d")


@pytest.mark.parametrize(
    ("y", "problem"),
    [
        (np.ones(3), r"y in d has shape \(3,\), expected \(4, ...\)"),
        (np.float32(1), r"y in d has shape \(\)"),
        ([0, np.nan, 1, 2], "y in d holds NaN or infinity"),
        (["a"] * 4, "y in d has type <U1, expected numbers"),
    ],
)
def test_targets_that_are_no_numbers_are_refused(y: Any, problem: str) -> None:
    with pytest.raises(ExamplesError, match=problem):
        read(y)


@pytest.mark.parametrize(
    ("y", "bundle", "kept"),
    [
        ([0, 5, 1, 2], manifest("cross-entropy", (2,), 2), [0, 2]),
        ([7, 5, 9, 2], manifest("cross-entropy", (2,), 2), []),
        ([0.5, 2.0, 1.0, -1.0], manifest("bce", (1,)), [0, 2]),
        ([0.5, 2.0, 1.0, -1.0], manifest("mse", (1,)), [0, 1, 2, 3]),
    ],
)
def test_examples_out_of_range_can_be_left_out(y: Any, bundle: bm.BundleManifest, kept: list[int]) -> None:
    examples = read(y)
    fitted = fit_examples(in_range(examples, bundle), bundle, "d")
    np.testing.assert_array_equal(fitted.x, examples.x[kept])
    np.testing.assert_array_equal(fitted.y.reshape(-1), examples.y[kept])


def test_inputs_of_another_shape_are_refused() -> None:
    bundle = msgspec.structs.replace(manifest("mse", (3,)), input_shape=(1, 3))
    with pytest.raises(ExamplesError, match=r"x in d has examples of shape \(3,\), expected \(1, 3\)"):
        fit_examples(read(), bundle, "d")


@pytest.mark.parametrize(
    ("loss", "shape", "classes", "named"),
    [
        ("mse", (3,), 2, "classes must be 0 with the loss mse"),
        ("cross-entropy", (3,), 2, r"output_shape must be \(2,\), one logit a class"),
        ("bce", (0,), 0, "output_shape must be positive sizes"),
    ],
)
def test_a_manifest_has_classes_or_a_shape(loss: bm.LossName, shape: tuple[int, ...], classes: int, named: str) -> None:
    with pytest.raises(InvalidValueError, match=named):
        manifest(loss, shape, classes)


def test_a_manifest_from_before_losses_is_cross_entropy() -> None:
    document = msgspec.json.decode(bm.encode_manifest(manifest("cross-entropy", (2,), 2)))
    del document["loss"], document["output_shape"]
    decoded = bm.decode_manifest(msgspec.json.encode(document))
    assert (decoded.loss, decoded.output_shape) == ("cross-entropy", ())
