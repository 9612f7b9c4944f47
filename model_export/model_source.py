"""Find a model by name: one of the zoo, or `module:factory` from any importable module of the user's."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import torch
from torch import nn

from model_export.errors import ExportError
from model_export.zoo import ZOO
from wire_protocol.errors import FisherfleetError, require


def build_model(source: str, input_shape: tuple[int, ...], classes: int, seed: int) -> nn.Module:
    """Build a model with weights drawn from `seed`.

    A zoo model is built for the shapes; a user's factory is called without arguments. Modules are looked for in the
    working directory too. Raises `ExportError`.
    """
    require(classes >= 2, "classes", classes, "at least 2")
    require(0 <= seed < 2**63, "seed", seed, "0 to 2^63 - 1")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return ZOO[source](input_shape, classes) if source in ZOO else _call_factory(source)
        except FisherfleetError:
            raise
        except (Exception, SystemExit) as error:
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ExportError(f"model {source!r} could not be built: {reason}") from error


def _call_factory(source: str) -> nn.Module:
    module_name, _, factory_name = source.partition(":")
    if not (module_name and factory_name):
        raise ExportError(f"model must be one of {sorted(ZOO)} or module:factory, got {source!r}")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        factory = getattr(importlib.import_module(module_name), factory_name)
    except (ImportError, AttributeError, TypeError, SystemExit) as error:
        raise ExportError(f"model {source!r} cannot be imported: {error}") from error
    model = factory()
    if not isinstance(model, nn.Module):
        raise ExportError(f"model {source!r} must return a torch.nn.Module, got {type(model).__name__}")
    return model
