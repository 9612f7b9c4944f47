"""Batch normalisation mixes the examples of a batch, so no example has a gradient of its own: put something else.

"group-norm" normalises each example over all its channels and positions (Wu and He, 2018, with one group), which has
the same parameters and works at any width. "freeze" keeps the running statistics: they are absorbed in the scale and
the shift, y = x * weight + bias, both of which stay trainable and are cut with their channels.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from model_export.errors import ExportError

BatchNormMode = Literal["group-norm", "freeze"]
MODES: tuple[BatchNormMode, ...] = ("group-norm", "freeze")


class ChannelGroupNorm(nn.Module):
    """GroupNorm(1, C) for any number of channels C; `weight` and `bias` have shape (C,) or are None."""

    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, weight: Tensor | None, bias: Tensor | None, eps: float) -> None:
        super().__init__()
        self.register_parameter("weight", _trainable(weight))
        self.register_parameter("bias", _trainable(bias))
        self.eps = eps

    def forward(self, inputs: Tensor) -> Tensor:
        """Each example of (batch, C, ...) with mean 0 and variance 1, then scaled and shifted by channel."""
        return torch.group_norm(inputs, 1, self.weight, self.bias, self.eps)


class ChannelAffine(nn.Module):
    """x * weight + bias by channel, for any number of channels C; both have shape (C,)."""

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """The shape of `inputs`, (batch, C, ...), is kept."""
        weight: Tensor = self.weight
        bias: Tensor = self.bias
        for _ in range(inputs.dim() - 2):
            weight, bias = weight.unsqueeze(-1), bias.unsqueeze(-1)
        return inputs * weight + bias


def replace_batch_norm(module: nn.Module, mode: BatchNormMode = "group-norm") -> tuple[nn.Module, list[str]]:
    """A copy of `module` without batch normalisation, and a message for each place that changed.

    `module` itself is returned where there is none. Raises `ExportError` for a mode other than `MODES` and for a layer
    to freeze that has no running statistics.
    """
    if mode not in MODES:
        raise ExportError(f"batchnorm must be one of {', '.join(MODES)}, got {mode!r}")
    if not any(isinstance(part, _BatchNorm) for part in module.modules()):
        return module, []
    rewritten = deepcopy(module)
    replaced: dict[int, nn.Module] = {}
    messages = []
    for name, part in list(rewritten.named_modules(remove_duplicate=False)):
        if isinstance(part, _BatchNorm):
            new = replaced.setdefault(id(part), _replacement(name, part, mode))
            messages.append(_message(name, part, mode))
            if not name:
                return new, messages
            parent, _, attribute = name.rpartition(".")
            setattr(rewritten.get_submodule(parent), attribute, new)
    return rewritten, messages


def _replacement(name: str, norm: _BatchNorm, mode: BatchNormMode) -> nn.Module:
    if mode == "group-norm":
        return ChannelGroupNorm(norm.weight, norm.bias, norm.eps)
    if norm.running_mean is None or norm.running_var is None:
        place = name or type(norm).__name__
        raise ExportError(f"batchnorm freeze needs running statistics, and {place} has none; use group-norm")
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var + norm.eps)
        scale = scale if norm.weight is None else scale * norm.weight
        shift = -norm.running_mean * scale
        shift = shift if norm.bias is None else shift + norm.bias
    return ChannelAffine(scale, shift)


def _message(name: str, norm: _BatchNorm, mode: BatchNormMode) -> str:
    what = f"{type(norm).__name__}({norm.num_features}) at {name or 'the top'}"
    if mode == "group-norm":
        return f"{what} is replaced by GroupNorm(1, {norm.num_features}): batch statistics mix examples"
    return f"{what} is frozen: its running statistics are absorbed in weight and bias, y = x * weight + bias"


def _trainable(tensor: Tensor | None) -> nn.Parameter | None:
    return None if tensor is None else nn.Parameter(tensor.detach().clone(), requires_grad=tensor.requires_grad)
