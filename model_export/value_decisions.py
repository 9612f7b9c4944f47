"""Finds where a module's Python code looks at values of tensors: what it decides by them, a graph cannot.

Values are those that depend on the input or on a trainable parameter. Sizes are plain numbers while a module runs as it
is, so that looking at them is not found.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_LOOKS = {
    "__bool__": "a truth value",
    "__float__": "a number",
    "__int__": "a number",
    "__index__": "an index",
    "item": "a number",
    "tolist": "numbers",
    "numpy": "numbers",
}
_SIZES = ("__get__", "size", "dim", "__len__", "numel", "stride", "is_floating_point")


class ValueDecisions(TorchFunctionMode):
    """While it is entered, `places` collects where values of tensors become Python's, each a text."""

    def __init__(self, module: nn.Module, example: Tensor) -> None:
        super().__init__()
        self.places: list[str] = []
        self._names = {id(part): name for name, part in module.named_modules()}
        self._depending: dict[int, Tensor] = {}
        self._mark([example, *(p for p in module.parameters() if p.requires_grad)])

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func`, and follow which tensors depend on values."""
        del types
        name = getattr(func, "__name__", "")
        depends = any(id(part) in self._depending for part in _tensors((args, dict(kwargs or {}))))
        if depends and name in _LOOKS:
            self._note(name)
        result = func(*args, **(kwargs or {}))
        if depends and name not in _SIZES:
            self._mark(_tensors(result))
        return result

    def _mark(self, tensors: Iterable[Tensor]) -> None:
        """Tensors are kept while the mode lives, so that none has the identity of an earlier one."""
        self._depending.update((id(tensor), tensor) for tensor in tensors)

    def _note(self, name: str) -> None:
        frame: FrameType | None = sys._getframe(2)
        while frame is not None and _is_torchs(frame):
            frame = frame.f_back
        if frame is None:
            return
        owner = self._names.get(id(frame.f_locals.get("self")), "")
        place = f"{_LOOKS[name]} of a tensor at {Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
        place += f" in {owner}" if owner else ""
        if place not in self.places:
            self.places.append(place)


def _is_torchs(frame: FrameType) -> bool:
    return Path(torch.__file__).parent in Path(frame.f_code.co_filename).parents


def _tensors(value: Any) -> Iterable[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)
