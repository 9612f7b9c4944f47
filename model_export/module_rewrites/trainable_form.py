"""All rewrites of a module, in order: what a device cannot train is replaced, unrolled or left out."""

from __future__ import annotations

from torch import nn

from model_export.module_rewrites.attention import put_examples_first
from model_export.module_rewrites.batch_norm import BatchNormMode, replace_batch_norm
from model_export.module_rewrites.dropout import leave_out_dropout
from model_export.module_rewrites.recurrent import unroll_recurrent


def trainable_form(module: nn.Module, batch_norm: BatchNormMode = "group-norm") -> tuple[nn.Module, list[str]]:
    """The module that is traced, and a message for each change; `module` itself where nothing has to change.

    Raises `ExportError`.
    """
    module, replaced = replace_batch_norm(module, batch_norm)
    module, unrolled = unroll_recurrent(module)
    module, left_out = leave_out_dropout(module)
    module = put_examples_first(module)
    return module, [*replaced, *unrolled, *left_out]
