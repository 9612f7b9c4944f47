"""From a torch module to a bundle: trace, check, find neuron groups, differentiate, write."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from model_export.autodiff.support import require_supported
from model_export.batch_axis import ANY_BATCH, require_no_batch_size, shown
from model_export.bundle import write_graphs, write_manifest
from model_export.errors import ExportError
from model_export.forward_graph import ForwardGraph, trace
from model_export.losses import CROSS_ENTROPY, Loss
from model_export.module_rewrites.trainable_form import trainable_form
from model_export.neuron_groups import discover_layout, label_axes
from model_export.normal_form import require_any_batch
from model_export.ort_artifacts import write_rung
from model_export.symbolic_shapes import open_shapes
from wire_protocol.bundle_manifest import MANIFEST_NAME, BundleManifest, Rung, decode_manifest
from wire_protocol.errors import ProtocolError
from wire_protocol.layout import Layout
from wire_protocol.sub_model import widths_at

_logger = logging.getLogger(__name__)


def compile_model(
    module: nn.Module, input_shape: tuple[int, ...], loss: Loss = CROSS_ENTROPY
) -> tuple[ForwardGraph, Layout]:
    """The forward graph of a trainable model and its layout; raises `ExportError` naming all that is unsupported.

    What cannot be trained as it is, is rewritten as by `trainable_form`, with a warning; `module` is not changed.
    """
    module, messages = trainable_form(module)
    for message in messages:
        _logger.warning("%s", message)
    graph = trace(module, input_shape)
    expected = loss.objection(graph.output_shape)
    if expected:
        found = shown((ANY_BATCH, *graph.output_shape))
        raise ExportError(f"the model's output must be {expected}, got {found}")
    require_supported(graph.nodes, graph.shapes, graph.parameters)
    require_no_batch_size(graph.nodes, graph.constants)
    require_any_batch(graph.to_model())
    axes = label_axes(graph)
    return open_shapes(graph, axes), discover_layout(graph, axes)


def export_bundle(
    module: nn.Module,
    input_shape: tuple[int, ...],
    out: Path,
    *,
    name: str,
    rungs: Sequence[float] = (),
    loss: Loss = CROSS_ENTROPY,
) -> BundleManifest:
    """Write a bundle for `module` into the folder `out`, which is new, empty or an older bundle.

    The bundle is made beside `out` and takes its place when it is whole, so that a failure leaves what was there.
    `input_shape` is one example's. Each of `rungs` is a fraction of neurons, in (0, 1], for which onnxruntime-training
    artifacts are written too. Raises `ExportError`.
    """
    out = out.resolve()
    _require_replaceable(out)
    graph, layout = compile_model(module, input_shape, loss)
    staging = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        staging.mkdir(parents=True)
        manifest = _write(staging, name, Compiled(graph, layout, loss), rungs)
        if out.exists():
            shutil.rmtree(out)
        staging.rename(out)
    except OSError as error:
        raise ExportError(f"out {out} cannot be written: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


@dataclass(frozen=True)
class Compiled:
    """A trainable model: its forward graph, its layout, and the loss that it is trained with."""

    graph: ForwardGraph
    layout: Layout
    loss: Loss


def _write(folder: Path, name: str, model: Compiled, rungs: Sequence[float]) -> BundleManifest:
    graph, layout, loss = model.graph, model.layout, model.loss
    ladder = [
        Rung(f"ort/{number}", widths_at(layout, keep)) for number, keep in enumerate(sorted(set(rungs), reverse=True))
    ]
    write_graphs(folder, graph, layout, loss)
    for rung in ladder:
        write_rung(graph.to_model(), layout, rung.widths, folder / rung.folder, loss)
    return write_manifest(folder, name, graph, layout, loss, tuple(ladder))


def _require_replaceable(out: Path) -> None:
    """Raise `ExportError` unless nothing but an older bundle's own files would be lost."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ExportError(f"out must be a folder, got the file {out}")
    files = {path.relative_to(out).as_posix() for path in out.rglob("*") if not path.is_dir()}
    foreign = sorted(files - _bundle_files(out))
    if foreign:
        raise ExportError(
            f"out must be a new or empty folder or an older bundle, got {out}, which also holds {foreign[0]}"
        )


def _bundle_files(folder: Path) -> set[str]:
    try:
        return {MANIFEST_NAME, *decode_manifest((folder / MANIFEST_NAME).read_bytes()).files}
    except (OSError, ProtocolError):
        return set()
