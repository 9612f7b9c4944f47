"""The transformer on tokens, and torch's own attention layers, against torch."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from model_export.errors import ExportError
from model_export.export import compile_model
from model_export.losses import CROSS_ENTROPY
from model_export.module_rewrites.trainable_form import trainable_form
from model_export.parity import Subject, check_parity
from model_export.zoo.transformer import HEAD_SIZE, WIDTH, transformer

WIDTH_HERE, HEADS, POSITIONS, FEATURES = 16, 4, 5, 3


def require_torch(module: nn.Module, input_shape: tuple[int, ...], groups: dict[str, int]) -> None:
    """`module` is its own oracle, once rewritten, and gives what it gave before."""
    rewritten, _ = trainable_form(module)
    example = torch.randn(2, *input_shape) if len(input_shape) > 1 else torch.zeros(2, *input_shape)
    with torch.no_grad():
        torch.testing.assert_close(rewritten.train()(example), module.eval()(example), rtol=1e-4, atol=1e-5)
    graph, layout = compile_model(module, input_shape)
    assert layout.group_sizes == groups
    found = check_parity(Subject(rewritten, graph, layout, CROSS_ENTROPY), Path(), ())
    assert [comparison for comparison in found if comparison.unanswered or not comparison.agrees] == []


def test_tokens() -> None:
    torch.manual_seed(0)
    blocks = ("blocks.0", "blocks.1")
    groups = {"embedding": WIDTH}
    for block in blocks:
        groups |= {f"{block}.attention.query": WIDTH // HEAD_SIZE, f"{block}.feed_forward.0": 128}
    require_torch(transformer((12,), 7), (12,), groups)


def test_heads_are_cut_as_wholes_together_with_what_reads_them() -> None:
    _, layout = compile_model(transformer((6, 4), 7), (6, 4))
    cuts = {parameter.name: parameter.cuts for parameter in layout.parameters}
    for name in ("query.weight", "query.bias", "key.weight", "value.weight", "value.bias"):
        [cut] = [cut for cut in cuts[f"blocks.0.attention.{name}"] if cut.group == "blocks.0.attention.query"]
        assert (cut.axis, cut.block, cut.repeat, cut.produces) == (0, HEAD_SIZE, 1, True)
    [read] = [cut for cut in cuts["blocks.0.attention.output.weight"] if cut.group == "blocks.0.attention.query"]
    assert (read.axis, read.block, read.produces) == (1, HEAD_SIZE, False)


def test_images_are_refused() -> None:
    with pytest.raises(ExportError, match=r"must be \(positions, features\) or \(positions,\), got \(1, 8, 8\)"):
        transformer((1, 8, 8), 7)


class Attends(nn.Module):
    """torch's attention in a residual stream."""

    def __init__(self, *, batch_first: bool = True, mask: str = "", need_weights: bool = False) -> None:
        super().__init__()
        self.batch_first, self.need_weights, self.padding = batch_first, need_weights, mask == "padding"
        self.stem, self.head = nn.Linear(FEATURES, WIDTH_HERE), nn.Linear(WIDTH_HERE, 3)
        self.attention = nn.MultiheadAttention(WIDTH_HERE, HEADS, batch_first=batch_first, bias=mask != "causal")
        causal = nn.Transformer.generate_square_subsequent_mask(POSITIONS) if mask == "causal" else None
        self.register_buffer("mask", torch.ones(POSITIONS, POSITIONS).triu(1) > 0 if mask == "hidden" else causal)

    def forward(self, inputs: Tensor) -> Tensor:
        stream = self.stem(inputs)
        hidden = inputs[:, :, 0] > 1 if self.padding else None
        if not self.batch_first:
            stream = stream.transpose(0, 1)
        attended, weights = self.attention(
            stream, stream, stream, attn_mask=self.mask, key_padding_mask=hidden, need_weights=self.need_weights
        )
        logits: Tensor = self.head((stream + attended).mean(1 if self.batch_first else 0))
        return logits + weights.square().mean((1, 2))[:, None] if self.need_weights else logits


@pytest.mark.parametrize("mask", ["", "causal", "hidden", "padding"])
def test_masks(mask: str) -> None:
    torch.manual_seed(0)
    groups = {"stem": WIDTH_HERE, "attention": HEADS}
    require_torch(Attends(mask=mask), (POSITIONS, FEATURES), groups)


def test_positions_first() -> None:
    torch.manual_seed(0)
    groups = {"stem": WIDTH_HERE, "attention": HEADS}
    require_torch(Attends(batch_first=False), (POSITIONS, FEATURES), groups)


def test_weights_that_are_used_keep_all_heads() -> None:
    torch.manual_seed(0)
    require_torch(Attends(need_weights=True), (POSITIONS, FEATURES), {"stem": WIDTH_HERE})


@pytest.mark.parametrize("norm_first", [True, False])
def test_encoder_layers_of_torch(norm_first: bool, caplog: pytest.LogCaptureFixture) -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.head = nn.Linear(FEATURES, WIDTH_HERE), nn.Linear(WIDTH_HERE, 3)
            self.start = nn.Parameter(torch.randn(1, 1, WIDTH_HERE))
            layer = nn.TransformerEncoderLayer(WIDTH_HERE, HEADS, 24, batch_first=True, norm_first=norm_first)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

        def forward(self, inputs: Tensor) -> Tensor:
            stream = torch.cat([self.start.expand(len(inputs), -1, -1), self.stem(inputs)], 1)
            logits: Tensor = self.head(self.encoder(stream)[:, 0])
            return logits

    torch.manual_seed(0)
    groups = {"start": WIDTH_HERE}
    for layer in ("encoder.layers.0", "encoder.layers.1"):
        groups |= {f"{layer}.self_attn": HEADS, f"{layer}.linear1": 24}
    with caplog.at_level(logging.WARNING, "model_export"):
        require_torch(Encoder(), (POSITIONS, FEATURES), groups)
    assert "dropout of 0.1 at encoder.layers.0.self_attn is left out" in caplog.text


def test_forms_of_attention_that_are_refused() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one = nn.MultiheadAttention(8, 2, kdim=4, vdim=4)
            self.two = nn.MultiheadAttention(8, 2, add_zero_attn=True)

        def forward(self, inputs: Tensor) -> Tensor:
            return inputs

    with pytest.raises(ExportError, match=r"one: keys or values of another size .*; two: keys that are not made from"):
        compile_model(Other(), (5, 8))


def test_a_mask_for_each_head_is_refused() -> None:
    module = Attends()
    module.mask = torch.zeros(3 * HEADS, POSITIONS, POSITIONS)
    with pytest.raises(ExportError, match="masks for each head"):
        compile_model(module, (POSITIONS, FEATURES))
