"""Multi-head attention (Vaswani et al., 2017) with the examples as the first axis throughout.

torch's own merges examples with heads, and then with positions, so that no axis is left to cut. Parameters keep their
names. The number of heads comes from the weights, so that the module also runs with the parameters of a narrower model,
which has fewer heads of the same size.
"""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, TypedDict

import torch
from torch import Tensor, nn

from model_export.errors import ExportError

if TYPE_CHECKING:
    from typing_extensions import Unpack


class Options(TypedDict, total=False):
    """What `nn.MultiheadAttention` takes by name. A mask of shape (positions, positions) serves all heads."""

    key_padding_mask: Tensor | None
    attn_mask: Tensor | None
    need_weights: bool
    average_attn_weights: bool
    is_causal: bool


class ExamplesFirstAttention(nn.Module):
    """Called as the `nn.MultiheadAttention` it stands for, on batches alone."""

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.batch_first, self.head_size = layer.batch_first, layer.head_dim
        self._qkv_same_embed_dim = False  # keeps nn.TransformerEncoderLayer off its path for inference
        self.register_parameter("in_proj_weight", layer.in_proj_weight)
        self.register_parameter("in_proj_bias", layer.in_proj_bias)
        self.out_proj = layer.out_proj

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, **options: Unpack[Options]
    ) -> tuple[Tensor, Tensor | None]:
        """Outputs, and the attention weights if they are needed."""
        queries, keys, values = self._projections(query, key, value)
        scores = queries * self.head_size**-0.5 @ keys.transpose(2, 3)
        hidden, padding = options.get("attn_mask"), options.get("key_padding_mask")
        if hidden is not None:
            scores = _masked(scores, hidden)
        if padding is not None:
            scores = _masked(scores, padding[:, None, None])
        weights = scores.softmax(-1)
        mixed = self.out_proj((weights @ values).transpose(1, 2).flatten(2))
        output = mixed if self.batch_first else mixed.transpose(0, 1)
        if not options.get("need_weights", True):
            return output, None
        return output, weights.mean(1) if options.get("average_attn_weights", True) else weights

    def _projections(self, *inputs: Tensor) -> list[Tensor]:
        """Queries, keys and values of shape (examples, heads, positions, head size)."""
        weight, bias = self._parameters["in_proj_weight"], self._parameters["in_proj_bias"]
        assert weight is not None
        made: dict[int, tuple[Tensor, ...]] = {}
        found = []
        for part, given in enumerate(inputs):
            if id(given) not in made:
                examples = given if self.batch_first else given.transpose(0, 1)
                made[id(given)] = nn.functional.linear(examples, weight, bias).chunk(3, -1)
            heads = torch.unflatten(made[id(given)][part], -1, (-1, self.head_size))
            found.append(heads.transpose(1, 2))
        return found


def put_examples_first(module: nn.Module) -> nn.Module:
    """A copy of `module` with every `nn.MultiheadAttention` replaced; `module` itself where there is none.

    Raises one `ExportError` that lists every layer of a form that is not supported.
    """
    layers = [(n, p) for n, p in module.named_modules(remove_duplicate=False) if isinstance(p, nn.MultiheadAttention)]
    if not layers:
        return module
    problems = [f"{name or 'the model'}: {reason}" for name, layer in layers if (reason := _objection(layer))]
    if problems:
        raise ExportError(f"attention that cannot be exported: {'; '.join(problems)}")
    rewritten = deepcopy(module)
    for name, _ in layers:
        layer = rewritten.get_submodule(name)
        assert isinstance(layer, nn.MultiheadAttention)
        if not name:
            return ExamplesFirstAttention(layer)
        parent, _, attribute = name.rpartition(".")
        setattr(rewritten.get_submodule(parent), attribute, ExamplesFirstAttention(layer))
    return rewritten


def _objection(layer: nn.MultiheadAttention) -> str | None:
    if not layer._qkv_same_embed_dim:
        return "keys or values of another size than queries; use kdim = vdim = embed_dim"
    if layer.bias_k is not None or layer.add_zero_attn:
        return "keys that are not made from inputs; use add_bias_kv=False and add_zero_attn=False"
    return None


def _masked(scores: Tensor, mask: Tensor) -> Tensor:
    """A mask of truth values hides, one of numbers is added."""
    if mask.ndim == 3:
        raise ExportError("attention masks for each head cannot be exported; use a mask (positions, positions)")
    return scores.masked_fill(mask, torch.finfo(scores.dtype).min) if mask.dtype == torch.bool else scores + mask
