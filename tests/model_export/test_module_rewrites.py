from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import Tensor, nn

from model_export.__main__ import main
from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.module_rewrites.batch_norm import ChannelAffine, ChannelGroupNorm, replace_batch_norm
from tests.graph_outputs import run
from wire_protocol.bundle_manifest import WEIGHTS


def normalised(rank: int = 2) -> nn.Module:
    """Convolution, batch norm with statistics of its own, another one inside a block."""
    torch.manual_seed(0)
    conv, norm = (nn.Conv1d, nn.BatchNorm1d) if rank == 1 else (nn.Conv2d, nn.BatchNorm2d)
    block = nn.Sequential()
    block.add_module("conv", conv(4, 6, 2))
    block.add_module("norm", norm(6, affine=False))
    module = nn.Sequential()
    module.add_module("stem", conv(2, 4, 2))
    module.add_module("norm", norm(4))
    module.add_module("block", block)
    module.add_module("flatten", nn.Flatten())
    module.add_module("head", nn.Linear(6 * 3**rank, 3))
    for _ in range(3):
        module(torch.randn(8, 2, *[5] * rank) + 1)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module


@pytest.mark.parametrize("mode", ["group-norm", "freeze"])
def test_every_place_is_named_and_the_module_is_left_alone(mode: str) -> None:
    module = normalised()
    before = {name: values.clone() for name, values in module.state_dict().items()}
    rewritten, messages = replace_batch_norm(module, mode)
    assert [message.split(" is ")[0] for message in messages] == [
        "BatchNorm2d(4) at norm",
        "BatchNorm2d(6) at block.norm",
    ]
    assert isinstance(module.get_submodule("norm"), nn.BatchNorm2d)
    assert module.training
    assert all(torch.equal(values, module.state_dict()[name]) for name, values in before.items())
    assert not any(isinstance(part, nn.BatchNorm2d) for part in rewritten.modules())


def test_group_norm_has_the_same_parameters_under_the_same_names() -> None:
    module = normalised()
    rewritten, _ = replace_batch_norm(module)
    parameters = dict(rewritten.named_parameters())
    assert list(parameters) == [name for name, _ in module.named_parameters()]
    assert all(torch.equal(values, parameters[name]) for name, values in module.named_parameters())
    assert isinstance(rewritten.get_submodule("block.norm"), ChannelGroupNorm)
    inputs = torch.randn(3, 4, 4, 4)
    expected = nn.functional.group_norm(inputs, 1, parameters["norm.weight"], parameters["norm.bias"])
    torch.testing.assert_close(rewritten.get_submodule("norm")(inputs), expected)


@pytest.mark.parametrize("rank", [1, 2])
def test_frozen_statistics_give_what_the_module_gives_in_evaluation(rank: int) -> None:
    module = normalised(rank)
    rewritten, _ = replace_batch_norm(module, "freeze")
    assert isinstance(rewritten.get_submodule("norm"), ChannelAffine)
    inputs = torch.randn(4, 2, *[5] * rank)
    torch.testing.assert_close(rewritten(inputs), module.eval()(inputs))
    assert {name for name, _ in rewritten.named_parameters()} >= {"norm.weight", "block.norm.weight", "block.norm.bias"}


@pytest.mark.parametrize("mode", ["group-norm", "freeze"])
@pytest.mark.parametrize("rank", [1, 2])
def test_the_exported_graph_gives_what_the_rewritten_module_gives(mode: str, rank: int) -> None:
    rewritten, _ = replace_batch_norm(normalised(rank), mode)
    graph, layout = compile_model(rewritten, (2, *[5] * rank))
    inputs = torch.randn(4, 2, *[5] * rank)
    found = run(graph.to_model(), {"batch": inputs.numpy()})["output"]
    np.testing.assert_allclose(found, rewritten(inputs).detach().numpy(), rtol=1e-4, atol=1e-5)
    assert layout.group_sizes == {"stem": 4, "block.conv": 6}
    cuts = {parameter.name: [cut.group for cut in parameter.cuts] for parameter in layout.parameters}
    assert cuts["norm.weight"] == cuts["norm.bias"] == ["stem"]


def test_a_norm_used_twice_stays_one() -> None:
    norm = nn.BatchNorm1d(3)
    rewritten, messages = replace_batch_norm(nn.Sequential(nn.Linear(2, 3), norm, nn.Linear(3, 3), norm))
    assert rewritten[1] is rewritten[3]
    assert len(messages) == 2


def test_a_module_that_is_a_norm_itself() -> None:
    rewritten, messages = replace_batch_norm(nn.BatchNorm1d(3))
    assert isinstance(rewritten, ChannelGroupNorm)
    assert messages[0].startswith("BatchNorm1d(3) at the top is replaced")


def test_a_module_without_norms_is_itself() -> None:
    module = nn.Linear(2, 3)
    assert replace_batch_norm(module) == (module, [])


def test_norms_that_cannot_be_frozen_are_named() -> None:
    module = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    with pytest.raises(ExportError, match="batchnorm freeze needs running statistics, and 0 has none; use group-norm"):
        replace_batch_norm(module, "freeze")
    with pytest.raises(ExportError, match="batchnorm must be one of group-norm, freeze, got 'keep'"):
        replace_batch_norm(module, "keep")


class SomeTrained(nn.Module):
    """A norm whose scale is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.head = nn.Linear(2, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)
        self.norm.weight.requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.first(inputs)))
        return logits


def test_what_is_not_trained_stays_untrained() -> None:
    rewritten, _ = replace_batch_norm(SomeTrained())
    assert [name for name, values in rewritten.named_parameters() if not values.requires_grad] == ["norm.weight"]


@pytest.mark.parametrize("options", [[], ["--batchnorm", "freeze"]])
def test_the_command_says_what_it_changed(
    options: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "bundle"
    assert main(["ds_cnn", "--input", "1,9,6", "--classes", "3", "--out", str(out), *options]) == 0
    said = " ".join(capsys.readouterr().out.split())
    what = "is frozen" if options else "is replaced by GroupNorm(1, 64)"
    assert f"BatchNorm2d(64) at block1.pointwise_norm {what}" in said
    assert "block1.pointwise_norm.weight" in load_file(out / WEIGHTS)
