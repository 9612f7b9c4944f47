"""Three models that hold every operator with a gradient rule: they learn when sliced at random, and equal torch.

`test_every_rule_has_its_place` fails for an operator that is in none of them: use it in one.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edge_client.training.portable import PortableRuntime
from model_export.autodiff.registry import load_rules, supported_operators
from model_export.export import compile_model, export_bundle
from model_export.losses import CROSS_ENTROPY
from model_export.module_rewrites.trainable_form import trainable_form
from model_export.parity import Subject, check_parity
from wire_protocol.examples import Examples
from wire_protocol.sub_model import SubModel, gather

CLASSES, EXAMPLES, STEPS = 3, 24, 60
IMAGE, SIGNAL, TOKENS = (2, 12, 12), (6, 8), 10

NOT_FROM_TORCH = {"Sum", "ReduceSumSquare", "IsInf"}
"""What torch never exports in float32; their rules are tested on graphs that are made by hand."""

ACTIVATIONS: list[Callable[[Tensor], Tensor]] = [
    *(functional.relu, functional.leaky_relu, functional.elu, functional.selu, functional.celu, functional.softplus),
    *(functional.relu6, functional.hardtanh, functional.hardsigmoid, functional.hardswish, functional.gelu),
    *(functional.silu, functional.mish, functional.logsigmoid, functional.tanhshrink, functional.softsign),
    lambda x: x.sin() + x.cos() - torch.sqrt(x.abs() + 0.1) + torch.log(x * x + 1),
    lambda x: torch.where(x > 0.1, x, -0.1 * x) + torch.erf(x) + (x.abs() + 0.1) ** 1.5 + torch.exp(-x * x),
    lambda x: torch.maximum(x, 0.1 * x) + torch.minimum(x, x * x) - torch.reciprocal(x * x + 1),
]


def masks(x: Tensor) -> Tensor:
    """1 nearly everywhere, by comparisons; a slope of 0."""
    inside = ((x < 9) & (x <= 9)) | (x >= 0.5) ^ torch.isnan(x)
    return (inside & ~(x == x.round() + 9)).float() + 0.01 * (x.sign() + x.floor() - x.ceil())


class Images(nn.Module):
    """Convolutions of all kinds, pools and normalisations of channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.depthwise, self.pointwise = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.Conv2d(8, 8, 1)
        self.several = nn.Conv2d(8, 16, 3, padding=1, groups=8)
        self.grouped = nn.Conv2d(16, 8, 3, padding=1, groups=2, bias=False)
        self.strided, self.dilated = nn.Conv2d(8, 8, 3, stride=2), nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.instance_norm, self.slopes = nn.InstanceNorm2d(8, affine=True), nn.PReLU(8)
        self.group_norm = nn.GroupNorm(2, 8)
        self.up, self.batch_norm = nn.ConvTranspose2d(8, 8, 2, stride=2), nn.GroupNorm(1, 8)
        self.head = nn.Linear(16, CLASSES)

    def forward(self, images: Tensor) -> Tensor:
        maps = functional.max_pool2d(self.stem(images), 3, 1, padding=1)
        maps = maps + self.pointwise(torch.relu(self.depthwise(maps)))
        maps = self.instance_norm(self.grouped(torch.relu(self.several(maps))))
        maps = self.slopes(self.group_norm(self.dilated(self.strided(functional.pad(maps, (0, 1, 0, 1))))))
        maps = functional.avg_pool2d(self.batch_norm(self.up(maps)), 3, 2, padding=1, count_include_pad=False)
        maps = functional.max_pool2d(functional.pad(torch.tanh(maps), (1, 0, 1, 0), value=0.5), 2)
        pools = [functional.adaptive_avg_pool2d(maps, 1), functional.adaptive_max_pool2d(maps, 1)]
        logits: Tensor = self.head(torch.cat(pools, 1).flatten(1))
        return logits


class Signals(nn.Module):
    """Convolutions along time, every activation, broadcasting and reductions."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.causal = nn.Conv1d(6, 8, 3, padding=1), nn.Conv1d(8, 8, 3, dilation=2)
        self.scales = nn.ParameterList(nn.Parameter(torch.full((8, 1), 0.1)) for _ in ACTIVATIONS)
        self.exponent, self.offset = nn.Parameter(torch.ones(8, 1)), nn.Parameter(torch.zeros(1))
        self.head = nn.Linear(40, CLASSES)

    def forward(self, signals: Tensor) -> Tensor:
        maps = self.stem(signals)
        maps = maps + self.causal(functional.pad(maps, (4, 0)))
        for scale, activation in zip(self.scales, ACTIVATIONS, strict=True):
            maps = (maps + scale * activation(maps)) / (1 + maps.abs().mean(2, keepdim=True))
        maps = maps * masks(maps) + self.offset
        maps = maps * torch.exp(self.exponent) - maps.amin(2, keepdim=True)
        parts = [maps.mean(2), maps.amax(2), maps.logsumexp(2), maps.norm(dim=2), torch.linalg.vector_norm(maps, 1, 2)]
        logits: Tensor = functional.log_softmax(self.head(torch.cat(parts, 1)), -1)
        return logits


class Tokens(nn.Module):
    """Embedding, attention, products, splits and all that moves entries."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.places = nn.Embedding(TOKENS, 8, padding_idx=0), nn.Parameter(0.1 * torch.randn(1, 12, 8))
        self.first = nn.Parameter(torch.zeros(1, 1, 8))
        self.attention, self.norm = nn.MultiheadAttention(8, 2, batch_first=True), nn.LayerNorm(8)
        self.gates, self.mix = nn.Linear(8, 16), nn.Parameter(0.3 * torch.randn(9, 9))
        self.inner, self.head = nn.Linear(8, 8, bias=False), nn.Linear(8, CLASSES)

    def forward(self, tokens: Tensor) -> Tensor:
        rows = self.table(tokens.long())
        rows = torch.cat([self.first.expand(len(tokens), -1, -1), rows], 1) + self.places[:, :9]
        rows = rows + self.attention(self.norm(rows), self.norm(rows), self.norm(rows))[0]
        left, right = self.gates(rows).chunk(2, -1)
        rows = torch.tanh(rows + left * torch.sigmoid(right) + self.mix @ rows)
        halves = torch.stack([rows[:, :4], rows[:, 5:]], 1).sum(1, keepdim=True).squeeze(1)
        rolled = rows.transpose(1, 2).contiguous().transpose(1, 2)[:, [3, 1, 1, 0]].unflatten(1, (2, 2)).flatten(1, 2)
        pooled = (halves + rolled).sum(1).clamp(-3, 3)
        logits: Tensor = self.head(self.inner(pooled))
        return logits


MODELS: dict[str, tuple[type[nn.Module], tuple[int, ...], float]] = {
    "images": (Images, IMAGE, 0.3),
    "signals": (Signals, SIGNAL, 0.1),
    "tokens": (Tokens, (8,), 0.1),
}


def build(name: str) -> nn.Module:
    torch.manual_seed(0)
    return MODELS[name][0]()


def subject_of(name: str) -> Subject:
    module, _ = trainable_form(build(name))
    return Subject(module, *compile_model(module, MODELS[name][1]), CROSS_ENTROPY)


def examples_of(name: str, generator: np.random.Generator) -> Examples:
    """Examples that tell their class."""
    targets = np.arange(EXAMPLES) % CLASSES
    shape = (EXAMPLES, *MODELS[name][1])
    if name == "tokens":
        drawn = generator.integers(0, TOKENS // CLASSES, shape) + 1 + TOKENS // CLASSES * targets[:, None]
        drawn[:, 0] = 0
    else:
        shown = np.eye(CLASSES)[targets].repeat(2, axis=1)[:, : shape[1]]
        drawn = generator.normal(size=shape) + 2 * shown.reshape(*shown.shape, *[1] * (len(shape) - 2))
    return Examples(drawn.astype(np.float32), targets)


def test_every_rule_has_its_place() -> None:
    load_rules()
    used = {node.op_type for name in MODELS for node in subject_of(name).graph.nodes}
    assert used | NOT_FROM_TORCH == set(supported_operators())


@pytest.mark.parametrize("name", MODELS)
def test_all_graphs_equal_torch(name: str) -> None:
    subject = subject_of(name)
    assert subject.layout.groups
    found = check_parity(subject, Path(), (), 1)
    assert len(found) == 2
    assert [comparison for comparison in found if comparison.unanswered or not comparison.agrees] == []


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("name", MODELS)
def test_a_random_sub_model_learns(name: str, seed: int, tmp_path: Path) -> None:
    module, generator = build(name), np.random.default_rng(seed)
    layout = export_bundle(module, MODELS[name][1], tmp_path / "bundle", name=name).layout
    kept = {
        group.name: np.sort(generator.choice(group.size, generator.integers(1, group.size + 1), replace=False))
        for group in layout.groups
    }
    full = {key: values.detach().numpy() for key, values in module.named_parameters()}
    parameters, examples = gather(layout, SubModel(kept), full), examples_of(name, generator)
    runtime = PortableRuntime.open(tmp_path / "bundle", layout)
    losses = []
    for _ in range(STEPS):
        result = runtime.train(parameters, [examples], MODELS[name][2])
        parameters = result.parameters
        losses.append(result.loss)
    assert losses[-1] < 0.8 * losses[0]
