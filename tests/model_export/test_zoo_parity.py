"""Every zoo model against torch: gradients, per-example norms and clipped sums, Fisher scores.

At full width and at five random sub-models. Errors are relative to the largest entry of a tensor; tensors that are 0
but for rounding, such as the gradient of a shift that the next layer takes out again, to a thousandth of the largest
gradient of the model.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from wire_protocol.layout import Layout
from wire_protocol.sub_model import SubModel, sub_shape

Arrays = dict[str, np.ndarray]

TOLERANCE = 1e-4
NEGLIGIBLE = 1e-3
NOT_CLIPPED = np.array(np.inf, dtype=np.float32)
SUB_MODELS = [None, 0, 1, 2, 4, 6]
"""At 3 mobilenet has an entry 3e-7 from the bend of a ReLU, at 5 the autoencoder normalises two almost equal entries.

There float32's rounding decides the gradient, torch's as ours.
"""


@pytest.mark.parametrize("seed", SUB_MODELS)
def test_graphs_equal_torch(zoo_model: Any, seed: int | None) -> None:
    sub_model = zoo_model.sub_model(seed)
    feeds = zoo_model.feeds(sub_model)
    expected = zoo_model.example_gradients(feeds)
    norms = torch.sqrt(sum((gradient.flatten(1) ** 2).sum(1) for gradient in expected.values()))
    clip_norm = norms.median()

    found = zoo_model.run("train_step", feeds)
    require_same(found, {f"grad.{name}": gradient.mean(0) for name, gradient in expected.items()})

    found = zoo_model.run("private_step", {**feeds, "clip_norm": clip_norm.numpy()})
    np.testing.assert_allclose(found["norms"][: len(norms)], norms, rtol=TOLERANCE)
    factors = torch.clamp(clip_norm / norms, max=1)
    sums = {f"grad.{name}": torch.einsum("n,n...->...", factors, gradient) for name, gradient in expected.items()}
    require_same(found, sums)

    found = zoo_model.run("fisher", {**feeds, "clip_norm": NOT_CLIPPED})
    require_same(found, scores(zoo_model.layout, sub_model, expected))


def require_same(found: Arrays, expected: dict[str, Tensor]) -> None:
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    for name, tensor in expected.items():
        reference = tensor.numpy()
        scale = max(float(np.abs(reference).max()), NEGLIGIBLE * largest)
        np.testing.assert_allclose(found[name], reference, rtol=0, atol=TOLERANCE * scale, err_msg=name)


def scores(layout: Layout, sub_model: SubModel, gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Sums over examples of the squared gradients of the entries that each neuron produces its output with."""
    totals: dict[str, Tensor] = {}
    for parameter in layout.parameters:
        squares = (gradients[parameter.name] ** 2).sum(0)
        for cut in parameter.cuts:
            if cut.produces:
                entries = sub_shape(parameter, sub_model.widths)[cut.axis]
                along = squares.movedim(cut.axis, 0).reshape(entries, -1).sum(1)
                score = along.reshape(cut.repeat, -1, cut.block).sum((0, 2))
                name = f"fisher.{cut.group}"
                totals[name] = totals[name] + score if name in totals else score
    return totals
