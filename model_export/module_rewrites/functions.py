"""Functions of `torch.nn.functional` that are traced in another form than torch has, or refused.

Dropout (Srivastava et al., 2014) is left out, as for modules. The row of an embedding's `padding_idx` has no gradient,
for which ONNX has no word: rows are multiplied with 0 where the token is the padding's, which is the same where that
row is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from model_export.errors import ExportError

_DROPOUTS: set[Callable[..., Any]] = {
    functional.dropout,
    functional.dropout1d,
    functional.dropout2d,
    functional.dropout3d,
    functional.alpha_dropout,
    functional.feature_alpha_dropout,
    torch.dropout,
    torch.dropout_,
    torch.feature_dropout,
    torch.alpha_dropout,
    torch.feature_alpha_dropout,
}


class WithoutDropout(TorchFunctionMode):
    """While it is entered, functions for dropout give their input; `messages` says which there were."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, or what stands for it."""
        del types
        options = dict(kwargs or {})
        if func in _DROPOUTS:
            return self._leave_out(func, args[0] if args else options["input"])
        if func is functional.scaled_dot_product_attention:
            return func(
                *args[:4], **{**options, **dict(zip(("is_causal",), args[5:6], strict=False)), "dropout_p": 0.0}
            )
        return self._call(func, args, options)

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        return func(*args, **options)

    def _leave_out(self, func: Callable[..., Any], given: Tensor) -> Tensor:
        message = f"{func.__name__} as a function is left out"
        if message not in self.messages:
            self.messages.append(message)
        return given


class TrainableFunctions(WithoutDropout):
    """And functions for embeddings of `module` are those that a graph can have."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._names = {id(values): name for name, values in module.named_parameters()}

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        if func is functional.embedding:
            return self._embedding(*args, **options)
        if func is functional.embedding_bag:
            return self._embedding_bag(*args, **options)
        return func(*args, **options)

    def _embedding(
        self,
        tokens: Tensor,
        table: Tensor,
        padding_idx: int | None = None,
        max_norm: float | None = None,
        *others: Any,
        **options: Any,
    ) -> Tensor:
        place = self._names.get(id(table), "the embedding")
        if max_norm is not None:
            raise ExportError(f"{place}: max_norm changes rows as they are read; leave it out")
        if options.get("scale_grad_by_freq") or True in others[1:2]:
            raise ExportError(f"{place}: scale_grad_by_freq counts tokens over all examples; leave it out")
        rows = functional.embedding(tokens, table)
        if padding_idx is None:
            return rows
        padding = padding_idx % len(table)
        if bool(table.detach()[padding].ne(0).any()):
            raise ExportError(f"{place}: the row of padding_idx {padding_idx} is not 0; set it to 0")
        return rows * (tokens != padding).unsqueeze(-1).to(rows.dtype)

    def _embedding_bag(self, tokens: Tensor, table: Tensor, *others: Any, **options: Any) -> Tensor:
        """One bag for each example; `others` as of `functional.embedding_bag`."""
        names = ("offsets", "max_norm", "norm_type", "scale_grad_by_freq", "mode", "sparse", "per_sample_weights")
        given = {**dict(zip((*names, "include_last_offset", "padding_idx"), others, strict=False)), **options}
        mode = given.get("mode", "mean")
        unusual = [name for name in ("offsets", "per_sample_weights", "padding_idx") if given.get(name) is not None]
        if unusual or mode not in ("mean", "sum") or tokens.ndim != 2:
            place = self._names.get(id(table), "the embedding bag")
            what = unusual[0] if unusual else f"mode {mode} of tokens with {tokens.ndim} axes"
            raise ExportError(f"{place}: an EmbeddingBag with {what} cannot be exported; use torch.nn.Embedding")
        rows = self._embedding(tokens, table, None, given.get("max_norm"))
        return rows.mean(1) if mode == "mean" else rows.sum(1)
