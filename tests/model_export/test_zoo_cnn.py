"""The convolutional models are those of their papers. Their parity with torch is in `test_zoo_parity`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.module_rewrites.batch_norm import replace_batch_norm
from model_export.ort_artifacts import is_available, write_rung
from model_export.zoo.ds_cnn import ds_cnn
from model_export.zoo.mobilenet import mobilenet
from model_export.zoo.resnet8 import resnet8
from model_export.zoo.temporal_cnn import temporal_cnn

Build = Callable[..., nn.Module]

MODELS: dict[str, tuple[Build, tuple[int, ...], int, int]] = {
    "ds_cnn": (ds_cnn, (1, 49, 10), 12, 23_180),
    "mobilenet": (mobilenet, (3, 96, 96), 2, 213_586),
    "resnet8": (resnet8, (3, 32, 32), 10, 78_186),
    "temporal_cnn": (temporal_cnn, (9, 128), 6, 56_294),
}


@pytest.mark.parametrize("name", MODELS)
def test_sizes(name: str) -> None:
    build, shape, classes, size = MODELS[name]
    module = build(shape, classes)
    assert sum(parameter.numel() for parameter in module.parameters()) == size
    assert module(torch.zeros(2, *shape)).shape == (2, classes)


@pytest.mark.parametrize("name", MODELS)
def test_a_wrong_input_is_named(name: str) -> None:
    with pytest.raises(ExportError, match=rf"input of {name} must be .*, got \(4,\)"):
        MODELS[name][0]((4,), 3)


def test_a_wrong_width_is_named() -> None:
    with pytest.raises(ExportError, match=r"width of mobilenet must be at least 0.03125, got 0.01"):
        mobilenet((3, 32, 32), 2, width=0.01)


def test_a_temporal_cnn_reads_no_future() -> None:
    module = temporal_cnn((2, 20), 3)
    sequences = torch.randn(1, 2, 20)
    changed = sequences.clone()
    changed[..., 12:] += 1
    steps, others = (module.blocks(inputs) for inputs in (sequences, changed))
    torch.testing.assert_close(steps[..., :12], others[..., :12])
    assert not torch.allclose(steps[..., 12:], others[..., 12:])


@pytest.mark.parametrize(
    ("module", "shape", "groups"),
    [
        (mobilenet((3, 32, 32), 2), (3, 32, 32), {"stem", *(f"block{n}.pointwise" for n in range(1, 14))}),
        (ds_cnn((1, 49, 10), 3), (1, 49, 10), {"stem", *(f"block{n}.pointwise" for n in range(1, 5))}),
        (
            resnet8((3, 16, 16), 3),
            (3, 16, 16),
            {"stem", "block1.conv1", "block2.conv1", "block2.conv2", "block3.conv1", "block3.conv2"},
        ),
    ],
)
def test_streams_are_cut_as_one(module: nn.Module, shape: tuple[int, ...], groups: set[str]) -> None:
    _, layout = compile_model(replace_batch_norm(module)[0], shape)
    assert set(layout.group_sizes) == groups


@pytest.mark.skipif(not is_available(), reason="onnxruntime-training is not installed")
def test_a_rung_has_as_many_groups_as_channels_are_left(tmp_path: Path) -> None:
    module, _ = replace_batch_norm(ds_cnn((1, 9, 6), 3, channels=8))
    graph, layout = compile_model(module, (1, 9, 6))
    widths = {group.name: number + 2 for number, group in enumerate(layout.groups)}
    write_rung(graph.to_model(), layout, widths, tmp_path)
    nodes = onnx.load_model(tmp_path / "eval_model.onnx").graph.node
    groups = [attribute.i for node in nodes for attribute in node.attribute if attribute.name == "group"]
    assert groups == [1, 2, 1, 3, 1, 4, 1, 5, 1]
