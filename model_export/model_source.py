"""Find a model by name: one of the zoo, or `module:factory` from any importable module of the user's.

`module` may also be the path of a file, and `factory` a class, a function or a model. What it is called with is written
behind it: `net.py:Net(hidden=32)`.
"""

from __future__ import annotations

import ast
import importlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from model_export.errors import ExportError, place
from model_export.zoo import ZOO
from wire_protocol.errors import FisherfleetError, require

_FORMS = "module:factory, such as net:Net or net.py:Net(hidden=32)"


@dataclass(frozen=True)
class _Factory:
    """What a source names: a module, a name in it, and the arguments."""

    module: str
    name: str
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    is_called: bool = False


def build_model(source: str, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Build a model with weights drawn from `seed`.

    A zoo model is built for the shapes; a user's model runs once where its layers wait for their sizes. Modules are
    looked for in the working directory too. Raises `ExportError`.
    """
    require(classes >= 2, "classes", classes, "at least 2")
    require(0 <= seed < 2**63, "seed", seed, "0 to 2^63 - 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return ZOO[source](input_shape, classes) if source in ZOO else _users_model(source, input_shape, seed)
        except FisherfleetError:
            raise
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ExportError(f"model {source!r} could not be built: {reason}{place(error)}") from error


def _users_model(source: str, input_shape: tuple[int, ...], seed: int) -> nn.Module:
    named = _parse(source)
    factory = _find(source, named)
    torch.manual_seed(seed)  # importing may have drawn numbers
    if isinstance(factory, nn.Module) and not named.is_called:
        model: object = factory
    else:
        try:
            model = factory(*named.args, **named.kwargs)
        except TypeError as error:
            if "required" in str(error) and "argument" in str(error) and not named.is_called:
                raise TypeError(f"{error}; give them as in {source}(hidden=32)") from error
            raise
    if not isinstance(model, nn.Module):
        raise ExportError(f"model {source!r} must return a torch.nn.Module, got {type(model).__name__}")
    if any(isinstance(part, LazyModuleMixin) and part.has_uninitialized_params() for part in model.modules()):
        model(torch.zeros(2, *input_shape))
    return model


def _parse(source: str) -> _Factory:
    module, _, rest = source.partition(":")
    name, _, arguments = rest.partition("(")
    if not module or not name.isidentifier():
        raise ExportError(f"model must be one of {sorted(ZOO)} or {_FORMS}, got {source!r}")
    if not arguments:
        return _Factory(module, name)
    try:
        call = ast.parse(rest, mode="eval").body
        assert isinstance(call, ast.Call)
        args = [ast.literal_eval(value) for value in call.args]
        kwargs = {str(given.arg): ast.literal_eval(given.value) for given in call.keywords}
    except (AssertionError, SyntaxError, ValueError) as error:
        raise ExportError(f"arguments must be numbers, texts, lists and the like, got {rest!r}") from error
    return _Factory(module, name, args, kwargs, is_called=True)


def _find(source: str, named: _Factory) -> Any:
    try:
        module = _import(named.module)
    except (ImportError, TypeError, SystemExit) as error:
        raise ExportError(f"model {source!r} cannot be imported: {error}{place(error)}") from error
    if not hasattr(module, named.name):
        own = [name for name, value in vars(module).items() if _is_model(value, module)]
        there = f"; it has {', '.join(own)}" if own else ""
        raise ExportError(f"model {source!r} cannot be imported: {named.module} has no {named.name}{there}")
    return getattr(module, named.name)


def _import(name: str) -> ModuleType:
    """A module by its name or by the path of its file, from the working directory too."""
    folder = Path.cwd()
    path = Path(name)
    if path.suffix == ".py":
        whole = path.resolve()
        if not whole.is_file():
            raise ImportError(f"there is no file {path}")
        folder = folder if folder in whole.parents else whole.parent
        name = ".".join(whole.relative_to(folder).with_suffix("").parts)
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))
    return importlib.import_module(name)


def _is_model(value: object, module: ModuleType) -> bool:
    """Whether a value of the user's module is a class of models or a model."""
    made = isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    return made or isinstance(value, nn.Module)
