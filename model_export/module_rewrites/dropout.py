"""Dropout (Srivastava et al., 2014) is left out: a training graph draws no random numbers."""

from __future__ import annotations

from copy import deepcopy

from torch import nn
from torch.nn.modules.dropout import _DropoutNd


def leave_out_dropout(module: nn.Module) -> tuple[nn.Module, list[str]]:
    """A copy of `module` without dropout, and a message for each place; `module` itself where there is none.

    Dropout within torch's attention is set to 0; that between recurrent layers goes when they are unrolled.
    """
    found = [(name, part) for name, part in module.named_modules(remove_duplicate=False) if _drops(part)]
    if not found:
        return module, []
    rewritten = deepcopy(module)
    messages = []
    for name, part in found:
        messages.append(f"dropout of {_rate(part):g} at {name or 'the top'} is left out")
        copied = rewritten.get_submodule(name)
        if isinstance(copied, nn.MultiheadAttention):
            copied.dropout = 0.0
        elif not name:
            return nn.Identity(), messages
        else:
            parent, _, attribute = name.rpartition(".")
            setattr(rewritten.get_submodule(parent), attribute, nn.Identity())
    return rewritten, messages


def _drops(part: nn.Module) -> bool:
    return isinstance(part, _DropoutNd) or (isinstance(part, nn.MultiheadAttention) and part.dropout > 0)


def _rate(part: nn.Module) -> float:
    return part.dropout if isinstance(part, nn.MultiheadAttention) else float(getattr(part, "p", 0.0))
