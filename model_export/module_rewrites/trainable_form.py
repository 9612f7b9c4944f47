"""All rewrites of a module, in order: what a device cannot train is replaced, unrolled or left out."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from model_export.errors import ExportError
from model_export.module_rewrites.attention import put_examples_first
from model_export.module_rewrites.batch_norm import BatchNormMode, replace_batch_norm
from model_export.module_rewrites.dropout import leave_out_dropout
from model_export.module_rewrites.recurrent import unroll_recurrent


def trainable_form(module: nn.Module, batch_norm: BatchNormMode = "group-norm") -> tuple[nn.Module, list[str]]:
    """The module that is traced, and a message for each change; `module` itself where nothing has to change.

    Raises `ExportError`.
    """
    lazy = [name or "the model" for name, part in module.named_modules() if _has_no_sizes(part)]
    if lazy:
        raise ExportError(f"layers without sizes: {', '.join(lazy)}; call the model on an example first")
    try:
        module, replaced = replace_batch_norm(module, batch_norm)
        module, unrolled = unroll_recurrent(module)
        module, left_out = leave_out_dropout(module)
        module = put_examples_first(module)
    except RuntimeError as error:  # torch cannot copy tensors that are computed from parameters, as by weight_norm
        reason = str(error).partition(".")[0]
        raise ExportError(f"the model cannot be copied: {reason}; use torch.nn.utils.parametrizations") from error
    return module, [*replaced, *unrolled, *left_out]


def _has_no_sizes(part: nn.Module) -> bool:
    return isinstance(part, LazyModuleMixin) and part.has_uninitialized_params()
