"""Import onnxruntime, or its training API, and nothing else.

The training wheel (onnxruntime-training 1.19.2) imports all of torch and onnx, where they are installed, as soon as
`onnxruntime` is imported: its start-up check tries `onnxruntime.training.ortmodule`, and the package
`onnxruntime.training` imports the tools that write artifacts. None of it serves a device and it costs 240 MB. So
`onnxruntime.training` is hidden while `onnxruntime` is imported, and `onnxruntime.training.api`, which needs only the
native library, is imported without running its parent's `__init__`. Both are undone before return: whoever imports
`onnxruntime.training` afterwards gets all of it. Stock onnxruntime has no such package and is imported as ever.
"""

from __future__ import annotations

import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from types import ModuleType
from typing import cast

_PACKAGE = "onnxruntime.training"
_lock = RLock()


def import_onnxruntime() -> ModuleType:
    """The module `onnxruntime`; raises `ImportError` where it is not installed."""
    with _lock, _in_place_of_package(None):
        return importlib.import_module("onnxruntime")


def import_training_api() -> ModuleType:
    """The module `onnxruntime.training.api`; raises `ImportError` where onnxruntime cannot train."""
    with _lock:
        onnxruntime = import_onnxruntime()
        spec = importlib.machinery.PathFinder.find_spec(_PACKAGE, onnxruntime.__path__)
        if spec is None:
            raise ModuleNotFoundError(f"No module named {_PACKAGE!r}", name=_PACKAGE)
        with _in_place_of_package(importlib.util.module_from_spec(spec)):
            return importlib.import_module(f"{_PACKAGE}.api")


@contextmanager
def _in_place_of_package(module: ModuleType | None) -> Iterator[None]:
    """Let imports find `module` as `onnxruntime.training`, or nothing at all, unless the package is already there."""
    if _PACKAGE in sys.modules:
        yield
        return
    modules = cast("dict[str, ModuleType | None]", sys.modules)
    modules[_PACKAGE] = module
    try:
        yield
    finally:
        del modules[_PACKAGE]
