"""torch's own export of a module to ONNX operators, for a batch of any size.

The module runs as it is, to see what it returns and where values decide what it computes, and then to be traced, each
with two batch sizes (see `batch_axis`). Operators that torch cannot export stay in the graph under torch's names, so
that one message can list them with all others. torch's generator and the module's modes are left as they were.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch
from onnx import ModelProto
from torch import Tensor, nn

from model_export.batch_axis import TRACED, shown
from model_export.errors import ExportError, place
from model_export.module_rewrites.functions import TrainableFunctions
from model_export.value_decisions import ValueDecisions

OPSET = 17
INPUT = "batch"
OUTPUT = "output"


def torch_export(module: nn.Module, input_shape: tuple[int, ...]) -> tuple[list[ModelProto], list[str]]:
    """The model as exported for each size of `TRACED`, and a message for each change that `TrainableFunctions` made.

    Raises `ExportError`.
    """
    _require_float32(module)
    with _state_kept(module), TrainableFunctions(module) as functions:
        decisions, _ = (_run(module, size, input_shape) for size in TRACED)
        if decisions:
            raise ExportError(
                f"values decide what the model computes, which no graph can: {'; '.join(decisions)}; "
                "use torch.where or a mask, or leave out a mere check"
            )
        models = [_export(module, size, input_shape) for size in TRACED]
    return models, functions.messages


def _require_float32(module: nn.Module) -> None:
    if hasattr(module, "_orig_mod"):
        raise ExportError("the model is compiled by torch.compile; export the module that was compiled")
    wrong = [f"{name} is {values.dtype}" for name, values in module.named_parameters() if values.dtype != torch.float32]
    if wrong:
        raise ExportError(f"parameters must be float32, and {wrong[0]}; call the module's float()")


def _run(module: nn.Module, size: int, input_shape: tuple[int, ...]) -> list[str]:
    """Run the module as it is; the places where values decide."""
    example = torch.zeros(size, *input_shape)
    try:
        with ValueDecisions(module, example) as found, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            result = module(example)
    except ExportError:
        raise
    except Exception as error:
        raise _not_traced(error, size, input_shape) from error
    if not isinstance(result, Tensor):
        raise ExportError(f"the model must return one tensor, got {_described(result)}")
    places: list[str] = found.places
    return places


def _not_traced(error: Exception, size: int, input_shape: tuple[int, ...]) -> ExportError:
    reason = f"{_reason(error)}{place(error)}"
    if size != TRACED[0]:
        reason = f"{reason} (it runs for {TRACED[0]} examples, and must for any number)"
    if "scalar types: Long, Int" in reason:
        reason = f"{reason} (inputs are float32: call .long() on tokens)"
    return ExportError(f"torch cannot trace the model on inputs {shown((size, *input_shape))}: {reason}")


def _described(result: object) -> str:
    if isinstance(result, dict):
        return f"a {type(result).__name__} of {', '.join(map(str, result))}; return one of its tensors"
    if isinstance(result, list | tuple):
        return f"a {type(result).__name__} of {len(result)}; return one of its tensors"
    return f"{type(result).__name__}"


def _export(module: nn.Module, size: int, input_shape: tuple[int, ...]) -> ModelProto:
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), _nothing_printed():
        warnings.simplefilter("ignore")
        path = Path(folder, "traced.onnx")
        try:
            torch.onnx.export(
                module,
                (torch.zeros(size, *input_shape),),
                path,
                dynamo=False,
                training=torch.onnx.TrainingMode.TRAINING,
                operator_export_type=torch.onnx.OperatorExportTypes.ONNX_FALLTHROUGH,
                do_constant_folding=False,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
        except Exception as error:
            raise _not_traced(error, size, input_shape) from error
        return onnx.load_model(path)


def _reason(error: Exception) -> str:
    """The first line, without torch's advice and its dump of the graph."""
    line = next(iter(str(error).strip().splitlines()), type(error).__name__)
    for noise in (". Please feel free", "  [Caused by", " [Caused by"):
        line = line.partition(noise)[0]
    return line


@contextmanager
def _nothing_printed() -> Iterator[None]:
    """torch's exporter prints the whole graph to standard output where it fails."""
    printing = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *_: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = printing


@contextmanager
def _state_kept(module: nn.Module) -> Iterator[None]:
    """Leave torch's generator and the training mode of every submodule as they were."""
    modes = [(part, part.training) for part in module.modules()]
    with torch.random.fork_rng(devices=[]):
        try:
            module.train()
            yield
        finally:
            for part, training in modes:
                part.training = training
