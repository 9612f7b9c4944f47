"""A graph on a GPU by CUDA or TensorRT, once it has shown there what the processor computes; else on the processor.

The first batch that a graph is given is run by both, and all outputs must agree to `TOLERANCE` of the largest value.
What is missing, disagrees or fails is said in one line, once, and the graph goes on on the processor, in the middle of
a training if need be. Products are float32, never TF32 (onnxruntime's CUDA provider, use_tf32).
"""

from __future__ import annotations

import ctypes
import io
import logging
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from wire_protocol.sub_model import Arrays

logger = logging.getLogger(__name__)

TOLERANCE = 1e-3

Session = Any
"""An `onnxruntime.InferenceSession`, which has no types."""
OpenSession = Callable[[], Session]

_CUDA = ("CUDAExecutionProvider", {"use_tf32": "0"})
PROVIDERS: Mapping[str, tuple[tuple[str, dict[str, str]], ...]] = {
    "auto": (_CUDA,),
    "cuda": (_CUDA,),
    "tensorrt": (("TensorrtExecutionProvider", {}), _CUDA),
}
"""What `provider` of a `device.toml` asks onnxruntime for, by precedence; the first must be there. TensorRT builds its
engines for minutes, so it is never chosen by itself.
"""
_DRIVER = "libcuda.so.1"


@cache
def _say(provider: str, why: str) -> None:
    """Once for each reason, however many graphs have it."""
    level = logging.INFO if provider == "auto" else logging.WARNING
    logger.log(level, "provider %s is not used, graphs run on the processor: %s", provider, why)


class CannotAccelerateError(Exception):
    """The provider cannot be used; the text says what is missing."""


class CheckedSession:
    """A graph's session on the accelerator or on the processor, whichever is to be believed."""

    def __init__(self, provider: str, open_there: OpenSession, open_here: OpenSession) -> None:
        self._provider = provider
        self._open_here = open_here
        self._session: Session | None = None
        self._candidate: Session | None = None
        try:
            self._candidate = open_there()
        except CannotAccelerateError as error:
            self.give_up(str(error))

    @property
    def provider(self) -> str:
        """What it runs on: the accelerator's name, or "cpu"."""
        return "cpu" if self._candidate is None else self._provider

    def session(self, inputs: Arrays) -> Session:
        """The session to run; the first call compares both on these inputs."""
        if self._session is None and self._candidate is not None:
            self._compare(self._candidate, inputs)
        assert self._session is not None
        return self._session

    def give_up(self, why: str) -> Session:
        """From now on the processor; returns its session."""
        _say(self._provider, why)
        self._candidate = None
        self._session = self._open_here()
        return self._session

    def _compare(self, candidate: Session, inputs: Arrays) -> None:
        expected = self._open_here().run(None, dict(inputs))
        try:
            found = candidate.run(None, dict(inputs))
        except Exception as error:
            self.give_up(f"it fails: {_first_line(error)}")
            return
        apart = max((_apart(one, other) for one, other in zip(found, expected, strict=True)), default=0.0)
        if apart <= TOLERANCE:
            self._session = candidate
        else:
            self.give_up(
                f"it disagrees with the processor by {apart:.1e} of the largest value, allowed is {TOLERANCE:g}"
            )


def open_on(module: ModuleType, path: Path, options: Any, provider: str) -> Session:
    """A session of the module onnxruntime that has the provider; raises `CannotAccelerateError`."""
    wanted = PROVIDERS[provider]
    name = wanted[0][0]
    here = module.get_available_providers()
    if name not in here:
        raise CannotAccelerateError(
            f"this onnxruntime {module.__version__} was built without {name} (it has {', '.join(here)}); install "
            "onnxruntime-gpu for this machine in place of onnxruntime"
        )
    usable = [(one, settings) for one, settings in wanted if one in here]
    return open_with(module, path, options, [*usable, "CPUExecutionProvider"])


def open_with(module: ModuleType, path: Path, options: Any, providers: list[Any]) -> Session:
    """A session with the first of these providers; raises `CannotAccelerateError`.

    onnxruntime itself falls back without an error, or prints one, so its providers are asked for afterwards.
    """
    name = providers[0][0]
    said = io.StringIO()
    try:
        with redirect_stdout(said):
            session = module.InferenceSession(str(path), options, providers=providers)
    except Exception as error:
        raise CannotAccelerateError(f"{name} does not take the graph: {_first_line(error)}") from error
    if name not in session.get_providers():
        reason = next((line for line in said.getvalue().splitlines() if "Error" in line[:9]), "")
        raise CannotAccelerateError(_missing(module, name) or f"{name} does not start: {reason or 'it says nothing'}")
    return session


def _missing(module: ModuleType, name: str) -> str | None:
    """The library that the provider's own library cannot find, None where that is not what is wrong."""
    stem = name.removesuffix("ExecutionProvider").lower()
    library = Path(str(module.__file__)).parent / "capi" / f"libonnxruntime_providers_{stem}.so"
    driver, own = _load_error(_DRIVER), _load_error(str(library))
    if driver is not None:
        return f"NVIDIA's driver cannot be loaded: {driver}"
    return None if own is None else f"{name} cannot be loaded: {own}"


def _load_error(library: str) -> str | None:
    """What the dynamic linker says; it names what a library needs and does not find."""
    try:
        ctypes.CDLL(library)
    except OSError as error:
        return str(error)
    return None


def _apart(found: Any, expected: Any) -> float:
    """The largest difference, as a share of the largest value expected; infinite where shapes or NaNs differ."""
    if found.shape != expected.shape or not np.array_equal(np.isfinite(found), np.isfinite(expected)):
        return float("inf")
    finite = np.isfinite(expected)
    largest = float(np.abs(expected[finite]).max(initial=0.0))
    difference = float(np.abs(found[finite] - expected[finite]).max(initial=0.0))
    return difference / largest if largest else difference


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
